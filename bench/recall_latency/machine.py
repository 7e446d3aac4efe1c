"""Facts that every row carries: the machine, and the code that is measured. Knows nothing about engines or data."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import index_builders
from retrieval import indexes
from retrieval.kernel import _native


def machine() -> dict[str, Any]:
    """CPU model, cores this process may use, memory in bytes, kernel and Python."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """Short commit of this checkout, with `+` when tracked files differ from it; `unknown` outside of one."""
    here = Path(__file__).parent
    try:
        name = _git(here, "rev-parse", "--short=12", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def own_code() -> str:
    """SHA-256 of what our indexes are made by: the builders, the kinds, the kernel."""
    found = hashlib.sha256()
    modules = (index_builders, indexes)
    files = [file for module in modules for folder in module.__path__ for file in sorted(Path(folder).glob("*.py"))]
    for file in [*files, Path(str(_native.__file__))]:
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return text.split("model name")[1].split(":")[1].split("\n")[0].strip()
    except (OSError, IndexError):
        return platform.processor()
