"""Measures the peak memory of a command and of every process that it starts, as the sum over all of them at one moment.

Counted are the pages that the system cannot take back without swapping: anonymous and shared ones, each divided among
the processes that share it (Pss_Anon + Pss_Shmem of /proc/<pid>/smaps_rollup). Linux only.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from pathlib import Path

EVERY_S = 0.01
AVAILABLE = Path("/proc/self/smaps_rollup").exists()


def peak_memory(command: list[str], *, cwd: Path | None = None) -> tuple[int, int]:
    """Peak bytes that cannot be taken back, and peak bytes with mapped files, of `command`, which must succeed."""
    held = with_files = 0
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            found = [_pages(pid) for pid in _tree(process.pid)]
            held = max(held, sum(each[0] for each in found))
            with_files = max(with_files, sum(each[1] for each in found))
            time.sleep(EVERY_S)
        said = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, said
    return held, with_files


def _tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _pages(pid: int) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0  # it has ended meanwhile
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return 1024 * (kib.get("Pss_Anon", 0) + kib.get("Pss_Shmem", 0)), 1024 * kib.get("Pss", 0)
