"""Memory of a server and of the child that probes for it, looked at while something else happens.

Read from /proc/PID/status, which costs microseconds and holds no lock of the process; the proportional figures of
smaps walk its page tables, which its own page faults would wait for. Knows nothing about swaps.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Bytes. anonymous: of the server, its own; files: mapped file pages in it, which the system can take back; child,
    child_anonymous: all of the children, and their own part.
    """

    anonymous: int
    files: int
    child: int
    child_anonymous: int


class Memory:
    """The process `pid` and its children. peak: the largest of each figure seen while watching."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.peak = Resident(anonymous=0, files=0, child=0, child_anonymous=0)

    def take(self) -> Resident:
        """The figures now."""
        anonymous, files = _resident(self._pid)
        own = [_resident(child) for child in _children(self._pid)]
        return Resident(
            anonymous=anonymous,
            files=files,
            child=sum(sum(each) for each in own),
            child_anonymous=sum(each[0] for each in own),
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look again and again until the end of the block."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_EVERY_S):
                now, most = vars(self.take()), vars(self.peak)
                self.peak = Resident(**{name: max(value, most[name]) for name, value in now.items()})

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _resident(pid: int) -> tuple[int, int]:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    found = dict(re.findall(r"^(RssAnon|RssFile):\s+(\d+) kB", text, re.MULTILINE))
    return 1024 * int(found.get("RssAnon", 0)), 1024 * int(found.get("RssFile", 0))


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # the thread ended
    return found
