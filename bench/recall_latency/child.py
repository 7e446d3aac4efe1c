"""The process of one engine: builds its index, or opens it and answers queries under the clock.

    python -m bench.recall_latency.child JOB.json

It writes ids and nanoseconds, never a recall: that is computed by the parent, from the ids. The process is pinned to
the cores that it may use before the engine's library is loaded, so that "one thread" holds for libraries that have no
such setting too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.recall_latency.engines.interface import Engine, Params, Search, engine_class, versions
from retrieval.types import F32, AnyArray

WARM_UP_S = 30.0  # at most, before the first setting
_WARM_QUERIES = 16  # before each setting
_BATCHES = 3  # batch calls of one setting
_STDERR_TAIL = 400
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Do the job of the file named on the command line; its `result` file says what came of it."""
    _end_with_parent()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = Path(job["result"])
    try:
        engine = engine_class(job["engine"])
        found = (_build if job["task"] == "build" else _search)(engine(), job)
        found["versions"] = versions(engine)
    except ImportError as error:
        found = {"reason": f"cannot be imported: {error}"}
    except BaseException as error:  # panics of Rust libraries are no Exception
        found = {"reason": _sentence(error)}
    result.write_text(json.dumps(found), encoding="utf-8")
    os._exit(0)  # a library's exit handlers have been seen to hang or crash, and there is nothing left to say


def _end_with_parent() -> None:
    """A parent that is killed would leave this process measuring, and disturbing what is measured after it."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _build(engine: Engine, job: dict[str, Any]) -> dict[str, Any]:
    xb: F32 = np.load(job["base"])
    folder = Path(job["index"])
    before, cpu_before, began = tree_status("VmRSS"), _cpu_s(), time.perf_counter()
    engine.build(xb, folder, job["params"], job["threads"])
    seconds, cpu = time.perf_counter() - began, _cpu_s() - cpu_before
    peak = tree_status("VmHWM")
    for file in _files(folder):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    return {
        "build_s": seconds,
        "build_cpu_s": cpu,
        "build_base_bytes": before,
        "build_peak_bytes": peak,
        # what the disk gives them: some engines reserve much more than they fill
        "disk_bytes": sum(file.stat().st_blocks * 512 for file in _files(folder)),
    }


def _search(engine: Engine, job: dict[str, Any]) -> dict[str, Any]:
    xq: F32 = np.load(job["queries"])
    folder, out = Path(job["index"]), Path(job["out"])
    for file in _files(folder):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)  # so that opening reads the disk, where it has one
        os.close(handle)
    began = time.perf_counter()
    engine.open(folder, job["params"], job["threads"])
    open_s = time.perf_counter() - began
    first_query_ns = _first_query_ns(engine, job["settings"], xq[-1:])
    _warm_up(engine, job["settings"], xq)
    settings: list[dict[str, Any]] = []
    for number, setting in enumerate(job["settings"]):
        try:
            found = _measure(engine, setting["k"], setting["effort"], setting["mode"], xq, job["budget_s"])
        except Exception as error:
            settings.append({"reason": _sentence(error)})
            continue
        np.savez(out / f"{number}.npz", ids=found[0], latency_ns=found[1], asked=found[2])
        settings.append({"cpu_share": found[3]})
    resident = tree_status("VmRSS")
    return {
        "open_s": open_s,
        "first_query_ns": first_query_ns,
        "resident_bytes": resident,
        "settings": settings,
    }


def _measure(
    engine: Engine, k: int, effort: Params, mode: str, xq: F32, budget_s: float
) -> tuple[Any, Any, int, float]:
    """Ids [m, k] of the first m queries, as many as the budget allows, their times, m, and CPU time over time.

    single: nanoseconds of each query; batch: nanoseconds per query of each of three calls.
    """
    search = engine.searcher(k, effort)
    singles = [np.ascontiguousarray(xq[i : i + 1]) for i in range(len(xq))]
    began = time.perf_counter_ns()
    warm = 0
    while warm < min(_WARM_QUERIES, len(xq)) and time.perf_counter_ns() - began < budget_s * 0.2e9:
        search(singles[warm])
        warm += 1
    if mode == "batch":
        each_s = (time.perf_counter_ns() - began) / 1e9 / warm
        several = xq[: int(min(len(xq), max(2, budget_s / _BATCHES / each_s)))]
        times = []
        clock = _Clock()
        for _ in range(_BATCHES):
            began = time.perf_counter_ns()
            ids = np.asarray(search(several))  # an answer that is made when it is looked at is made here
            times.append((time.perf_counter_ns() - began) // len(several))
        return _wide(ids, k), np.array(times, np.int64), len(several), clock.share()
    answers, times = [], []
    clock = _Clock()
    stop = time.perf_counter_ns() + int(budget_s * 1e9)
    for single in singles:
        began = time.perf_counter_ns()
        ids = np.asarray(search(single))
        ended = time.perf_counter_ns()
        times.append(ended - began)
        answers.append(_wide(ids, k))
        if ended > stop:
            break
    return np.concatenate(answers), np.array(times, np.int64), len(times), clock.share()


class _Clock:
    """CPU time of this process over time: below the number of threads, something else had the cores, or a disk."""

    def __init__(self) -> None:
        self.cpu_ns, self.wall_ns = time.process_time_ns(), time.perf_counter_ns()

    def share(self) -> float:
        return (time.process_time_ns() - self.cpu_ns) / max(1, time.perf_counter_ns() - self.wall_ns)


def _wide(ids: AnyArray, k: int) -> AnyArray:
    """Ids [q, m] as [q, k]: some libraries return shorter rows where they found fewer."""
    if ids.dtype.kind == "O":
        raise TypeError("answered with objects that are no numbers")
    if ids.ndim != 2 or ids.shape[1] >= k:
        return ids
    signed = ids.astype(np.int64) if ids.dtype.kind == "u" else ids
    return np.pad(signed, ((0, 0), (0, k - ids.shape[1])), constant_values=-1)


def _first_query_ns(engine: Engine, settings: Sequence[dict[str, Any]], query: F32) -> int | None:
    """Of the first setting that the engine can do."""
    for setting in settings:
        with contextlib.suppress(Exception):
            search = engine.searcher(setting["k"], setting["effort"])
            began = time.perf_counter_ns()
            search(query)
            return time.perf_counter_ns() - began
    return None


def _warm_up(engine: Engine, settings: Sequence[dict[str, Any]], xq: F32) -> None:
    """The deepest search of all queries: it touches what the others will, so no setting pays for pages to come in.

    One that the engine refuses is told when it is measured; here the next one does.
    """
    for setting in sorted(settings, key=lambda setting: setting["k"])[::-1]:
        with contextlib.suppress(Exception):
            _search_all(engine.searcher(setting["k"], setting["effort"]), xq)
            return


def _search_all(search: Search, xq: F32) -> None:
    stop = time.perf_counter() + WARM_UP_S
    for start in range(len(xq)):
        search(xq[start : start + 1])
        if time.perf_counter() > stop:
            return


def tree_status(name: str) -> int:
    """Bytes of a memory field of /proc/PID/status, summed over this process and those that it started."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            total += int(text.split(name + ":")[1].split()[0]) * 1024
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text(encoding="utf-8").split()]
        except (OSError, IndexError):
            continue  # it has ended
    return total


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())[:_STDERR_TAIL]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


if __name__ == "__main__":
    main()
