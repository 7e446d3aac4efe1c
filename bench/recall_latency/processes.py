"""Runs a job in a child process, and tells what became of it when it does not come back.

Output of libraries goes to a log; a child that crashes, hangs or is killed for memory is a reason in one sentence, not
an exception, since the other engines go on. Knows nothing about engines or recall.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# pools of threads that have no other setting
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKIO_WORKER_THREADS", "LANCE_CPU_THREADS")
_TAIL = 200


def run_job(
    job: Mapping[str, Any], folder: Path, *, threads: int, cores: Sequence[int], limit_s: float
) -> dict[str, Any]:
    """What the child wrote, or {"reason": one sentence}. folder: scratch of this job alone; cores: it is pinned to."""
    folder.mkdir(parents=True, exist_ok=True)
    job_file, result, log = folder / "job.json", folder / "result.json", folder / "log"
    job_file.write_text(json.dumps({**job, "threads": threads, "result": str(result), "out": str(folder)}), "utf-8")
    environment = {
        **os.environ,
        **{name: str(threads) for name in _THREAD_VARIABLES},
        "TOKENIZERS_PARALLELISM": "false",
        # an adapter of one's own lies where the command runs, and the child runs elsewhere
        "PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(Path.cwd())]),
    }
    with log.open("wb") as output:
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # of this thread, from which the child has it
        try:
            child = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "bench.recall_latency.child", str(job_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,  # some libraries leave logs where they run
                env=environment,
                start_new_session=True,
            )
        finally:
            os.sched_setaffinity(0, own)
        try:
            code = child.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            return {"reason": f"was not done after {limit_s:g} s and was ended; --limit-s allows more"}
        finally:
            # what it started ends with it; the group is gone when nothing is left
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    try:
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"reason": f"its process {_end(code)}{_last_words(log)}"}
    return found


def _end(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    return f"was ended by {name}" + (" (memory may have run out)" if name == "SIGKILL" else "")


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f": {lines[-1][:_TAIL]}" if lines else ""
