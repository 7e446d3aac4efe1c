"""The top texts of every entity: a log in, Parquet parts of id, texts and their provenance out.

The log is dealt to partitions by a hash of the entity id, one spill file per slice with one record batch per partition;
then each partition is summed and cut by itself. Memory is bounded by one slice and one partition. The order is weight
descending, then text ascending. Sums are integers, so the rows' order does not matter. Knows nothing about captions.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders import tables
from index_builders.enrich.log import (
    AT,
    ENTITY,
    MILLION,
    MILLIONTHS,
    TEXT,
    TIME,
    LogColumns,
    LogFile,
    LogPlan,
    check_log,
    read_slices,
    window_start,
)
from index_builders.enrich.parts import PartFolder, stored_now
from index_builders.staging import hash_file, temporary_name, writing
from retrieval.errors import InvalidData, InvalidParams
from retrieval.store.placement import shard_of

Progress = Callable[[str, int, int], None]  # (stage, done, total)
PARTITION_ROWS = 2_000_000
MAX_TOP, MAX_SINCE_DAYS, MAX_PARTITIONS = 1_000, 36_500, 4_096
_SPILL = "_spill"


def plan_log(
    log: Path,
    out: Path,
    *,
    column: str,
    columns: LogColumns,
    action_weights: dict[str, float] | None = None,
    top: int = 10,
    min_count: float = 1.0,
    since_days: int | None = 365,
    now: datetime | None = None,
    partitions: int | None = None,
) -> LogPlan:
    """Look at a log (Parquet or Arrow, a file or a folder) and say what will be made of it.

    now: end of the window, UTC where it has no zone; that of the run being continued, else the clock, when None.
    InvalidParams for a setting out of range; InvalidData for a log that is empty or lacks a usable column.
    """
    limits = [("top", top, 1, MAX_TOP), ("partitions", partitions, 1, MAX_PARTITIONS)]
    limits += [("since_days", since_days, 1, MAX_SINCE_DAYS)]
    for name, value, low, high in limits:
        if value is not None and not low <= value <= high:
            raise InvalidParams(f"{name} = {value} is not acceptable: give {low} to {high:,}")
    if not 0 < min_count <= 1e9:
        raise InvalidParams(f"min_count = {min_count:g} is not acceptable: give more than 0 and at most 1,000,000,000")
    for action, weight in (action_weights or {}).items():
        if not 0 <= weight <= 1e6:
            raise InvalidParams(f"action {action!r} has weight {weight:g}: give 0 to 1,000,000")
    now = now or stored_now(out) or datetime.now(timezone.utc)
    now = now.replace(tzinfo=timezone.utc) if now.tzinfo is None else now.astimezone(timezone.utc)
    found = tables.list_tables(log)
    kinds = {check_log(file, columns) for file in found}
    if len(kinds) > 1:
        raise InvalidData(f"the files of {log} have ids of several types: make them all string or all int64")
    files = tuple(LogFile(path=file.resolve(), rows=tables.count_rows(file), sha256=hash_file(file)) for file in found)
    rows = sum(file.rows for file in files)
    if rows == 0:
        raise InvalidData(f"{log} has no rows: there is nothing to aggregate")
    return LogPlan(
        out=out,
        source=log.name,
        column=column,
        files=files,
        columns=columns,
        id_type=kinds.pop(),
        now=now,
        since=window_start(now, since_days),
        action_weights=dict(action_weights or {}),
        top=top,
        min_count=min_count,
        partitions=partitions or min(MAX_PARTITIONS, -(-rows // PARTITION_ROWS)),
    )


def aggregate(plan: LogPlan, *, progress: Progress | None = None) -> dict[str, Any]:
    """Make every part that is not finished; the report has entities, texts, rows, left_out, parts, resumed.

    InvalidArgument when the folder holds something else; InvalidData when no text reaches the floor.
    """
    folder = PartFolder(plan.out, plan.digest)
    folder.claim(plan.content)
    reports = [folder.finished(number) for number in range(plan.partitions)]
    resumed = sum(report is not None for report in reports)
    tally = folder.note("log")
    if tally is None or resumed < plan.partitions:
        tally = _spill(plan, folder, progress)
    for number in range(plan.partitions):
        if reports[number] is None:
            table = _part(plan, number)
            texts = int(pc.sum(pc.list_value_length(table.column(plan.column))).as_py() or 0)
            reports[number] = {"entities": table.num_rows, "texts": texts}
            folder.write(number, table, reports[number] or {})
        if progress is not None:
            progress("aggregate", number + 1, plan.partitions)
    shutil.rmtree(plan.out / _SPILL, ignore_errors=True)
    done = [report for report in reports if report is not None]
    entities = sum(report["entities"] for report in done)
    if entities == 0:
        raise InvalidData(
            f"no text of {plan.source} reaches the floor of {plan.min_count:g} within the window: lower the floor or "
            "widen the window, into another folder"
        )
    return {
        "out": str(plan.out),
        "now": plan.now.isoformat(),
        "entities": entities,
        "texts": sum(report["texts"] for report in done),
        "rows": plan.rows,
        "left_out": tally["left_out"],
        "parts": plan.partitions,
        "resumed": resumed,
    }


def _spill(plan: LogPlan, folder: PartFolder, progress: Progress | None) -> dict[str, Any]:
    left_out: Counter[str] = Counter()
    with writing(plan.out):
        (plan.out / _SPILL).mkdir(exist_ok=True)
    slices = len(plan.slices)
    missing = set()
    for number in range(slices):
        note, path = folder.note(_spill_name(number)), _spill_file(plan, number)
        if note is None or not path.is_file() or hash_file(path) != note["sha256"]:
            missing.add(number)
        else:
            left_out.update(note["left_out"])
    for done, (number, table, counted) in enumerate(read_slices(plan, missing), start=slices - len(missing) + 1):
        path = _spill_file(plan, number)
        _deal(plan, _summed(table), path)
        folder.set_note(_spill_name(number), {"left_out": dict(counted), "sha256": hash_file(path)})
        left_out.update(counted)
        if progress is not None:
            progress("read", done, slices)
    tally = {"left_out": {reason: count for reason, count in sorted(left_out.items()) if count}}
    folder.set_note("log", tally)
    return tally


def _deal(plan: LogPlan, table: pa.Table, path: Path) -> None:
    shards = shard_of(table.column(ENTITY).to_pylist(), plan.partitions)
    with writing(path):
        with pa.OSFile(str(temporary_name(path)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for partition in range(plan.partitions):
                rows = table.take(pa.array(np.flatnonzero(shards == partition))).combine_chunks()
                batches = rows.to_batches()
                writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema))
        os.replace(temporary_name(path), path)


def _summed(table: pa.Table) -> pa.Table:
    """One row per entity and text: millionths, rows, first and last time."""
    if "rows" not in table.column_names:
        table = table.append_column("rows", pa.array(np.ones(table.num_rows, np.int64)))
        table = table.append_column("first", table.column(AT)).rename_columns(
            [ENTITY, TEXT, MILLIONTHS, "last", "rows", "first"]
        )
    sums = [(MILLIONTHS, "sum"), ("rows", "sum"), ("first", "min"), ("last", "max")]
    grouped = table.group_by([ENTITY, TEXT], use_threads=False).aggregate(sums)
    names = [ENTITY, TEXT, f"{MILLIONTHS}_sum", "rows_sum", "first_min", "last_max"]
    return grouped.select(names).rename_columns([ENTITY, TEXT, MILLIONTHS, "rows", "first", "last"])


def _part(plan: LogPlan, partition: int) -> pa.Table:
    dealt = []
    for number in range(len(plan.slices)):
        with pa.memory_map(str(_spill_file(plan, number))) as file:
            dealt.append(pa.Table.from_batches([pa.ipc.open_file(file).get_batch(partition)]))
    table = _summed(pa.concat_tables(dealt))
    table = table.filter(pc.greater_equal(table.column(MILLIONTHS), round(plan.min_count * MILLION)))
    table = table.sort_by([(ENTITY, "ascending"), (MILLIONTHS, "descending"), (TEXT, "ascending")])
    codes = np.asarray(table.column(ENTITY).combine_chunks().dictionary_encode().indices)
    first = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, np.int64)
    rank = np.arange(len(codes)) - np.repeat(first, np.diff(np.r_[first, len(codes)]))
    table = table.filter(pa.array(rank < plan.top)).combine_chunks()
    kept = np.minimum(np.diff(np.r_[first, len(codes)]), plan.top)
    offsets = pa.array(np.r_[0, np.cumsum(kept)].astype(np.int32))
    n = table.num_rows

    def flat(name: str) -> pa.Array:
        return pa.concat_arrays(table.column(name).chunks) if n else pa.array([], table.schema.field(name).type)

    provenance = {
        "source": pa.array([plan.source] * n, pa.string()),
        "count": pa.array(np.asarray(flat(MILLIONTHS)) / MILLION, pa.float64()),
        "rows": flat("rows"),
        "first": flat("first"),
        "last": flat("last"),
        "made": pa.array([plan.now] * n, TIME),
    }
    structs = pa.StructArray.from_arrays(list(provenance.values()), names=list(provenance))
    starts = pa.array(np.r_[0, np.cumsum(kept)][:-1].astype(np.int64))
    return pa.table(
        {
            ENTITY: flat(ENTITY).take(starts),
            plan.column: pa.ListArray.from_arrays(offsets, flat(TEXT)),
            f"{plan.column}_provenance": pa.ListArray.from_arrays(offsets, structs),
        }
    )


def _spill_name(number: int) -> str:
    return f"spill-{number:05d}"


def _spill_file(plan: LogPlan, number: int) -> Path:
    return plan.out / _SPILL / f"{number:05d}.spill"
