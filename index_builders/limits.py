"""How much memory and disk a build may take: what was allowed, else what the system says is free.

Inside a container the machine's free memory says nothing: the control group's limit counts, of version 1 or 2, at any
level above this process, less what the group uses already and could not give back. Knows nothing about builds.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import InvalidParams, StoreError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 for "no limit"


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A number of bytes and where it comes from, in words."""

    size_bytes: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a build has to fit into; None where nothing is known."""

    memory: Limit | None
    disk: Limit | None


def find_limits(store: Path, *, max_memory: int | None = None, max_disk: int | None = None) -> Limits:
    """The tighter of what is free and what is allowed (bytes), for a build into `store`."""
    free_memory, free_disk = free_memory_limit(), free_disk_limit(store)
    return Limits(
        memory=_tighter(free_memory, max_memory, "--max-memory"), disk=_tighter(free_disk, max_disk, "--max-disk")
    )


def free_memory_limit(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Limit | None:
    """The least of MemAvailable and what every control group above this process leaves; None off Linux."""
    found = [*_cgroup_limits(proc, cgroups)]
    with suppress(OSError, ValueError, IndexError):
        available = (proc / "meminfo").read_text().split("MemAvailable:")[1].split()[0]
        found.append(Limit(size_bytes=1024 * int(available), source="free memory of the machine"))
    return min(found, key=lambda limit: limit.size_bytes, default=None)


def free_disk_limit(store: Path) -> Limit:
    """Free bytes of the file system that `store` is, or will be made, on."""
    place = store.absolute()
    while not place.exists():
        place = place.parent
    try:
        return Limit(size_bytes=shutil.disk_usage(place).free, source=f"free disk at {place}")
    except OSError as error:
        raise StoreError(f"cannot tell the free disk at {place}: {error.strerror}") from error


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as 500M, 12G, 8GiB or 1500000; InvalidParams names the option otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", text.strip().lower())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise InvalidParams(
            f"{option} = {text!r} is not a size: give a number with K, M, G, T or KiB ... TiB, as in 12G"
        )
    return int(float(match[1]) * _UNITS[match[2]])


def spell(size_bytes: float) -> str:
    """A size in words, three digits: "1.23 GB"."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size_bytes >= unit:
            return (
                f"{size_bytes / unit:.3g} {name}" if size_bytes < 1_000 * unit else f"{size_bytes / unit:,.0f} {name}"
            )
    return f"{size_bytes / 1e3:.3g} kB"


def _tighter(free: Limit | None, allowed: int | None, option: str) -> Limit | None:
    if allowed is None or (free is not None and free.size_bytes < allowed):
        return free
    return Limit(size_bytes=allowed, source=option)


def _cgroup_limits(proc: Path, root: Path) -> Iterator[Limit]:
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield from _walk(root, path, "memory.max", "memory.current", "inactive_file", "version 2")
        elif "memory" in controllers.split(","):
            yield from _walk(
                root / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
                "version 1",
            )


def _walk(root: Path, path: str, limit: str, usage: str, reclaimable: str, version: str) -> Iterator[Limit]:
    """The group and all above it; in a container its own group is often mounted at the root itself."""
    below = (root / path.lstrip("/")).relative_to(root)
    for folder in (root / below, *(root / parent for parent in below.parents)):
        with suppress(OSError, ValueError):
            allowed = int((folder / limit).read_text())  # "max" is no number
            if allowed >= _UNLIMITED:
                continue
            used = int((folder / usage).read_text())
            held = used - _field(folder / "memory.stat", reclaimable)
            yield Limit(size_bytes=max(0, allowed - held), source=f"memory limit of the control group ({version})")


def _field(file: Path, name: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text().splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return 0
