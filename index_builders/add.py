"""Stage 3, add: every shard's index, side by side, one process each.

The child process holds one shard's vectors and the library of its kind, nothing else (no Arrow, no faiss for a graph);
ids and attributes are put into the index's order here afterwards. Each shard is a stage of its own: a killed build
goes on with the shards that are missing. One that an earlier generation built from the same input is linked instead.
"""

from __future__ import annotations

import shutil
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index_builders import ivfpq, reuse
from index_builders.plan import Plan, Progress
from index_builders.reuse import Built
from index_builders.shard_task import build_part
from index_builders.spool import read_rows, rows_file, vectors_file
from index_builders.staging import Staging, temporary_name, writing
from retrieval.errors import DamagedData
from retrieval.store.generation import ROWS_FILE

ORDER_FILE = "order.npy"
_POLL_S = 0.5


def shard_name(shard: int) -> str:
    """Folder of a shard in a generation."""
    return f"shard-{shard:05d}"


def order_file(staging: Staging, shard: int) -> Path:
    """Which spooled row each index row is; there only when a builder changed the order."""
    return staging.work / f"{shard_name(shard)}.order.npy"


def add(
    plan: Plan,
    staging: Staging,
    spools: Path,
    trained: Path,
    rows: list[int],
    *,
    inputs: list[str],
    reusable: dict[str, Built],
    executor: Executor,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Build the shards that are not done, each with `threads`; returns the report of each, in shard order.

    inputs: the digest of each shard's input; those among `reusable` are linked, and say so in their report.
    """
    reports: dict[int, dict[str, Any]] = {}
    pending: dict[Future[dict[str, Any]], int] = {}
    quantizer = trained / ivfpq.QUANTIZER_FILE
    for shard in range(plan.shards):
        folder = staging.generation / shard_name(shard)
        report = staging.done(shard_name(shard), folder)
        if report is not None:
            reports[shard] = report
            continue
        temporary = temporary_name(folder)
        with writing(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            linked = _link(staging, spools, shard, reusable.get(inputs[shard]))
        if linked is not None:
            reports[shard] = linked
            continue
        future = executor.submit(
            build_part,
            vectors_file(spools, shard),
            temporary,
            str(plan.kind),
            plan.params,
            str(plan.metric),
            plan.seed + shard,
            quantizer if quantizer.exists() else None,
            threads,
        )
        pending[future] = shard
    _report(progress, reports, pending, rows, staging)
    try:
        while pending:
            finished, _ = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            done = [(pending.pop(future), future) for future in finished]
            # those that succeeded are kept before a failure is raised, so that the next run need not repeat them
            for shard, future in sorted(done, key=lambda each: each[1].exception() is not None):
                with writing(staging.generation / shard_name(shard)):
                    reports[shard] = _finish(staging, spools, shard, future.result())
            _report(progress, reports, pending, rows, staging)
    finally:
        for future in pending:
            future.cancel()
    return [reports[shard] for shard in range(plan.shards)]


def _link(staging: Staging, spools: Path, shard: int, built: Built | None) -> dict[str, Any] | None:
    """The report of a shard whose files could be taken from an earlier generation, else None."""
    if built is None:
        return None
    folder = staging.generation / shard_name(shard)
    temporary = temporary_name(folder)
    try:
        reuse.link(built, temporary)
        order = reuse.order_of(temporary, read_rows(rows_file(spools, shard)))
    except DamagedData:
        shutil.rmtree(temporary)  # it is built anew, from the source
        temporary.mkdir()
        return None
    scratch = temporary_name(order_file(staging, shard))
    with scratch.open("wb") as file:
        np.save(file, order)
    scratch.replace(order_file(staging, shard))
    report = {**built.manifest.report, "reused_from": built.generation}
    hashes = {name: entry.sha256 for name, entry in built.files.items()}  # just checked by `link`
    return staging.seal(shard_name(shard), temporary, folder, report, hashes)


def _finish(staging: Staging, spools: Path, shard: int, report: dict[str, Any]) -> dict[str, Any]:
    folder = staging.generation / shard_name(shard)
    temporary = temporary_name(folder)
    table = read_rows(rows_file(spools, shard))
    order = temporary / ORDER_FILE
    if order.exists():
        table = table.take(pa.array(np.load(order)))
        order.replace(order_file(staging, shard))
    with pa.ipc.new_file(str(temporary / ROWS_FILE), table.schema) as sink:
        sink.write_table(table.combine_chunks())
    (temporary / "progress").unlink(missing_ok=True)
    return staging.seal(shard_name(shard), temporary, folder, report)


def _report(
    progress: Progress | None,
    reports: dict[int, dict[str, Any]],
    pending: dict[Future[dict[str, Any]], int],
    rows: list[int],
    staging: Staging,
) -> None:
    if progress is None:
        return
    done = sum(rows[shard] for shard in reports)
    for shard in pending.values():
        file = temporary_name(staging.generation / shard_name(shard)) / "progress"
        try:
            done += min(int(file.read_text() or 0), rows[shard] - 1)
        except (OSError, ValueError):
            continue  # not started, or caught while being rewritten
    progress("add", done, sum(rows))
