"""The task of one shard, as it runs in a child process: vectors in, index files and a report out.

A pure function of its arguments that writes into one folder. Imports the one builder that it needs and measures the
memory that building took. Knows nothing about ids, stages or stores.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.params import BUILD_PARAMS, make_params
from retrieval.types import AnyArray, IndexKind, Metric

_PROGRESS_EVERY_S = 0.5


def build_part(
    vectors: Path,
    out: Path,
    kind: str,
    params: dict[str, Any],
    metric: str,
    seed: int,
    trained: Path | None,
    threads: int = 1,
) -> dict[str, Any]:
    """Build the index over the .npy file `vectors` into folder `out`; returns its report.

    With one thread the same arguments give the same bytes; with more, a graph comes out differently each time.

    A builder that changes the row order leaves it in out/order.npy: int64 [n], input row of each stored row.
    """
    started = time.perf_counter()
    build = _builder(IndexKind(kind), trained)
    base = _reset_peak_memory()
    x = np.load(vectors, mmap_mode="r", allow_pickle=False)
    report = build(
        x,
        out,
        params=make_params(BUILD_PARAMS[IndexKind(kind)], params),
        metric=Metric(metric),
        seed=seed,
        threads=threads,
        progress=_progress_file(out / "progress"),
    )
    order: AnyArray | None = report.pop("order", None)
    if order is not None:
        np.save(out / "order.npy", np.asarray(order, dtype=np.int64))
    report["seconds"] = round(time.perf_counter() - started, 3)
    if multiprocessing.parent_process() is not None:
        # of the whole process, and what of that was there when the libraries had been loaded
        report["peak_memory_bytes"] = _peak_memory_bytes()
        report["base_memory_bytes"] = base
        report["raw_bytes"] = int(4 * x.shape[0] * x.shape[1])
    return report


def _builder(kind: IndexKind, trained: Path | None) -> Callable[..., dict[str, Any]]:
    if kind is IndexKind.IVFPQ:
        from functools import partial

        from index_builders import ivfpq

        assert trained is not None
        return partial(ivfpq.build_shard, trained=trained)
    if kind is IndexKind.HNSW:
        from index_builders import hnsw

        return hnsw.build_shard
    from index_builders import flat

    return flat.build_shard


def _progress_file(path: Path) -> Callable[[int], None]:
    last = 0.0

    def show(rows_done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_EVERY_S:
            last = now
            path.write_text(str(rows_done))

    return show


def _reset_peak_memory() -> int:
    """Start the peak anew where the system can (Linux), so that a worker's last shard does not count for this one."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak_memory_bytes()


def _peak_memory_bytes() -> int:
    """Peak resident memory of this process. Linux's ru_maxrss will not do: it starts at the parent's."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
