"""A raw log as planned: which files, which columns, which window of time, what an action is worth.

A row says that an entity met a text at a time: saved to a board of that title, engaged with after that query. Reading
gives rows with the id, the text in the towers' normalisation, the time in microseconds and the weight in millionths:
integers, so that sums do not depend on the order of the rows. Knows nothing about partitions or output.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from index_builders import tables
from retrieval.errors import InvalidData
from retrieval.towers.text import NORMALISATION, normalise_text
from retrieval.types import AnyArray, IdType

TIME = pa.timestamp("us", tz="UTC")
MILLION = 1_000_000  # weights are counted in millionths
MAX_WEIGHT = 1_000_000.0  # of one row, action weight included
SLICE_ROWS = 524_288  # read, normalised and dealt out at a time: bounds memory
_BATCH_ROWS = 65_536
ENTITY, TEXT, MILLIONTHS, AT = "id", "text", "millionths", "time"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LogFile(_Record):
    """One file of the log."""

    path: Path
    rows: int
    sha256: str


class LogColumns(_Record):
    """Names of the columns of a log; action and weight are None where every row counts one."""

    id: str = "id"
    text: str
    time: str = "time"
    action: str | None = None
    weight: str | None = None

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        return [name for name in (self.id, self.text, self.time, self.action, self.weight) if name is not None]


class LogPlan(_Record):
    """All that the parts depend on. now, since: the window's ends, both inside; since None: no beginning."""

    out: Path
    source: str
    column: str
    files: tuple[LogFile, ...]
    columns: LogColumns
    id_type: IdType
    now: datetime
    since: datetime | None
    action_weights: dict[str, float]
    top: int
    min_count: float
    partitions: int

    @property
    def rows(self) -> int:
        """Rows of the log."""
        return sum(file.rows for file in self.files)

    @property
    def slices(self) -> list[tuple[LogFile, int]]:
        """File and first row of each slice, in order."""
        return [(file, start) for file in self.files for start in range(0, file.rows, SLICE_ROWS)]

    @property
    def content(self) -> dict[str, Any]:
        """What shapes the parts, as JSON; where files lie does not."""
        content = self.model_dump(mode="json", exclude={"out"})
        content["files"] = [[file.sha256, file.rows] for file in self.files]
        return {**content, "version": 1, "normalisation": NORMALISATION}

    @property
    def digest(self) -> str:
        """Hash of the content."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()


def check_log(file: Path, columns: LogColumns) -> IdType:
    """Id type of a log file that has every column with a usable type; InvalidData otherwise."""
    schema = tables.read_schema(file)
    for name in columns.names:
        if schema.names.count(name) != 1:
            raise InvalidData(f"{file} has no column {name!r}; it has: {', '.join(schema.names) or 'none'}")
    for name in [columns.text] if columns.action is None else [columns.text, columns.action]:
        kind = _value_type(schema.field(name).type)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InvalidData(f"column {name!r} of {file} has type {kind}; texts and actions are strings")
    kind = schema.field(columns.time).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InvalidData(f"column {columns.time!r} of {file} has type {kind}; times are timestamps or dates: cast it")
    if columns.weight is not None:
        kind = schema.field(columns.weight).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InvalidData(f"column {columns.weight!r} of {file} has type {kind}; weights are numbers")
    return tables.id_type(schema.field(columns.id).type, file, columns.id)


def read_slices(plan: LogPlan, wanted: set[int]) -> Iterator[tuple[int, pa.Table, Counter[str]]]:
    """Rows of the wanted slices that count: id, text (string), millionths (int64), time (timestamp[us, UTC]).

    With the slice's number, in order; the counter says how many rows were left out and why. Each file is decoded once,
    up to its last wanted row. InvalidData for a time after the plan's now, and for a weight that is not finite,
    negative or above the limit.
    """
    numbered = list(enumerate(plan.slices))
    for file in plan.files:
        starts = {start: number for number, (of, start) in numbered if of is file and number in wanted}
        if not starts:
            continue
        kept: list[pa.RecordBatch] = []
        left_out: Counter[str] = Counter()
        position = 0
        for batch in _aligned(file, plan.columns.names, max(starts) + SLICE_ROWS):
            start = position // SLICE_ROWS * SLICE_ROWS
            position += batch.num_rows
            if start not in starts:
                continue
            kept.append(_judge(plan, file.path, batch, left_out))
            if position == min(start + SLICE_ROWS, file.rows):
                yield starts[start], pa.Table.from_batches(kept, schema=log_schema(plan)), left_out
                kept, left_out = [], Counter()
        if position != min(max(starts) + SLICE_ROWS, file.rows):
            raise InvalidData(f"{file.path} has other rows than when it was planned: run the enrichment again")


def log_schema(plan: LogPlan) -> pa.Schema:
    """Schema of rows that count."""
    entity = pa.string() if plan.id_type is IdType.STRING else pa.int64()
    return pa.schema({ENTITY: entity, TEXT: pa.string(), MILLIONTHS: pa.int64(), AT: TIME})


def _judge(plan: LogPlan, file: Path, batch: pa.RecordBatch, left_out: Counter[str]) -> pa.RecordBatch:
    columns = plan.columns
    ids = tables.plain_ids(batch.column(columns.id), plan.id_type, file)
    times = _times(plan, file, batch.column(columns.time))
    texts = _normalised(batch.column(columns.text))
    weights = _weights(plan, file, batch)
    keep = np.ones(batch.num_rows, dtype=bool)
    tests = [("without id", pc.is_valid(ids)), ("without text", pc.is_valid(texts)), ("without time", times.is_valid())]
    if plan.since is not None:
        early = pc.less(times, pa.scalar(plan.since, TIME))
        tests.append(("before the window", pc.invert(pc.fill_null(early, False))))
    tests += [("without weight", pc.is_valid(weights)), ("of no weight", pc.not_equal(pc.fill_null(weights, 1), 0))]
    for reason, passed in tests:
        good = np.asarray(passed.to_numpy(zero_copy_only=False), dtype=bool)
        dropped = int((keep & ~good).sum())
        left_out[reason] += dropped
        keep &= good
    whole = pa.RecordBatch.from_arrays([ids, texts, weights, times], schema=log_schema(plan))
    return whole.filter(pa.array(keep))


def _times(plan: LogPlan, file: Path, column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_date(kind) or kind.tz is None:
        column = column.cast(pa.timestamp("us"), safe=False)  # without a zone, times are UTC
    times = column.cast(TIME, safe=False)
    latest = pc.max(times).as_py()
    if latest is not None and latest > plan.now:
        raise InvalidData(
            f"{file} has the time {latest.isoformat()}, which is after now = {plan.now.isoformat()}: "
            "correct the log or give a later --now"
        )
    return times


def _normalised(column: pa.Array) -> pa.Array:
    """Texts as the towers normalise them, each distinct one only once; null where nothing is left."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    texts = [None if text is None else normalise_text(text) or None for text in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _weights(plan: LogPlan, file: Path, batch: pa.RecordBatch) -> pa.Array:
    """Weight of each row in millionths, int64; zero for an action that does not count, null where unknown."""
    n = batch.num_rows
    weights = np.ones(n)
    known = np.ones(n, dtype=bool)
    if plan.columns.weight is not None:
        column = batch.column(plan.columns.weight)
        known = np.array(column.is_valid())
        weights = np.array(column.cast(pa.float64(), safe=False).fill_null(0.0))
    if plan.columns.action is not None and plan.action_weights:
        weights = weights * _action_weights(plan, batch.column(plan.columns.action))
    # below the limit, no sum over the whole log leaves int64
    limit = min(MAX_WEIGHT, (2**63 - 1) / MILLION / max(plan.rows, 1))
    bad = ~(np.isfinite(weights) & (weights >= 0) & (weights <= limit))
    if bad.any():
        raise InvalidData(
            f"{file} has a row of weight {weights[bad][0]:g}, a weight is 0 to {limit:,.0f}: correct the log"
        )
    return pa.array(np.rint(weights * MILLION).astype(np.int64), mask=~known)


def _action_weights(plan: LogPlan, column: pa.Array) -> AnyArray:
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    worth = [plan.action_weights.get(action, 0.0) for action in encoded.dictionary.to_pylist()]
    of_row = pa.array(worth, pa.float64()).take(encoded.indices)
    return np.asarray(of_row.fill_null(0.0))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def window_start(now: datetime, since_days: int | None) -> datetime | None:
    """Beginning of a window of `since_days` days that ends at `now`."""
    return None if since_days is None else now - timedelta(days=since_days)


def _aligned(file: LogFile, names: list[str], count: int) -> Iterator[pa.RecordBatch]:
    """The first `count` rows in batches that never cross the border of a slice."""
    position = 0
    for batch in tables.read_batches(file.path, names, _BATCH_ROWS):
        while batch.num_rows:
            if position == count:
                return
            piece = batch.slice(0, SLICE_ROWS - position % SLICE_ROWS)
            yield piece
            position += piece.num_rows
            batch = batch.slice(piece.num_rows)
