"""Progress of long work: bars on a terminal, plain lines elsewhere. Writes to standard error only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

ProgressCallback: TypeAlias = Callable[[str, int, int], None]  # (stage, done, total)

_LINE_EVERY_S = 10.0


@contextmanager
def progress_printer(title: str) -> Iterator[ProgressCallback]:
    """A callback (stage, done, total) that shows the progress of `title` as long as the context is open."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(title, console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{title}: {stage}", total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _lines(title: str, console: Console) -> ProgressCallback:
    last: dict[str, float] = {}
    begun: dict[str, tuple[float, int]] = {}  # when a stage was first heard of, and how much of it was done

    def show(stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, before = begun.setdefault(stage, (now, done))
        if done < total and now - last.get(stage, float("-inf")) < _LINE_EVERY_S:
            return
        last[stage] = now
        left = ""
        if before < done < total:
            left = f", about {(now - since) * (total - done) / (done - before):.0f} s left"
        console.print(f"{title}: {stage} {done}/{total}{left}", highlight=False)

    return show
