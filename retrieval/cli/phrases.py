"""How a line on the terminal names counts and files. Knows nothing about what was counted or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def counted(count: int, noun: str) -> str:
    """Such as "1 limit" and "2,000 limits"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def read_first(files: Sequence[Path]) -> str:
    """The line about a report's files, of which the first is for people and all lie in one folder."""
    first, *others = files
    beside = f", with {' and '.join(_kinds(others))} beside it" if others else ""
    return f"gate report: {first}{beside}"


def _kinds(files: Sequence[Path]) -> list[str]:
    plots = sum(each.suffix == ".png" for each in files)
    names = [each.name for each in files if each.suffix != ".png"]
    return [*names, *([counted(plots, "plot")] if plots else [])]
