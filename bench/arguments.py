"""How a measurement takes its arguments: under the name of its command, with its numbers held to bounds.

Knows nothing about what is measured.
"""

from __future__ import annotations

import argparse

from retrieval.errors import InvalidParams
from retrieval.params import MAX_DIM

ROWS = (1, 10**9)
DIMS = (1, MAX_DIM)
COUNT = (1, 1_000_000)  # of queries, repeats, calls: whatever there is at least one of
THREADS = (1, 256)  # of one process; and processes
RATE = (0.01, 1e6)  # a second
SECONDS, MILLISECONDS = (0.01, 86_400), (0.01, 60_000)


def parser_of(command: str, text: str | None) -> argparse.ArgumentParser:
    """A parser of `retrieval bench COMMAND`, whose help begins with `text`, a module's docstring."""
    return argparse.ArgumentParser(
        prog=f"retrieval bench {command}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def check(chosen: argparse.Namespace, **bounds: tuple[float, float]) -> None:
    """InvalidParams for a number (each of several) outside its bounds, which count as inside; None was not given."""
    for name, (low, high) in bounds.items():
        given = getattr(chosen, name)
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None and not low <= value <= high:
                option = f"--{name.replace('_', '-')} {value}"
                raise InvalidParams(f"{option} is not acceptable: give {low:,} to {high:,}")
