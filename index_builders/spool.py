"""Reading the source once: judge each row, send it to its shard, leave the bad ones out.

Writes work/read/shard-NNNNN.npy (float32 [n, d], unit length for cosine) and shard-NNNNN.arrow (ids and attributes), in
order of arrival or of the ids, which a change elsewhere in the source does not move. Duplicate ids meet in one shard,
so they are found shard by shard and nothing larger is ever held.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from index_builders import quarantine
from index_builders.plan import Plan, Progress
from index_builders.quarantine import EMPTY_ID, NULL_ID, Tally
from index_builders.source import Batch, Source
from index_builders.source_norms import SourceNorms
from retrieval.errors import BuildFailed, InvalidData
from retrieval.store.generation import ID_COLUMN
from retrieval.store.manifest import Quarantine
from retrieval.store.placement import shard_of
from retrieval.topk import normalise
from retrieval.types import F32, AnyArray, IdType, Metric

_HEADER_BYTES = 128  # what numpy writes for any shape of float32 that fits
_BLOCK_ROWS = 65_536
_UNIT_ROWS = 1_024


def vectors_file(folder: Path, shard: int) -> Path:
    """Spooled vectors of a shard."""
    return folder / f"shard-{shard:05d}.npy"


def rows_file(folder: Path, shard: int) -> Path:
    """Spooled ids and attributes of a shard."""
    return folder / f"shard-{shard:05d}.arrow"


def read_rows(path: Path) -> pa.Table:
    """A spooled or final rows file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def open_vectors(path: Path) -> F32:
    """Vectors float32 [n, d] of a spool file, memory-mapped."""
    mapped: F32 = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def spool(plan: Plan, source: Source, folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read the whole source into `folder`; the report has "rows", "sha256" and "norms" per shard, and "quarantine".

    sha256 is over what a shard holds in its order, however the source came in files and batches; norms are those of
    the source, before its vectors are made unit length, of the rows that were not refused.

    BuildFailed when more rows are unusable than the plan allows or none is left; InvalidData when a shard stays empty.
    """
    tally, done = Tally(), 0
    with ExitStack() as stack:
        shards = [stack.enter_context(_ShardSpool(folder, shard, plan.d)) for shard in range(plan.shards)]
        for batch in source.batches():
            reasons = _judge(batch, plan, done, tally)
            good = np.flatnonzero(reasons == 0)
            if len(good):
                table = _rows(batch, good)
                _deal(shards, table, batch.vectors[good], plan)
            done += len(reasons)
            if progress is not None:
                progress("read", done, source.rows)
    rows = [_settle(folder, shard, plan, tally) for shard in range(plan.shards)]
    found = tally.report()
    _check(found, rows, done, plan)
    contents = [_digest(folder, shard) for shard in range(plan.shards)]
    return {
        "rows": rows,
        "rows_in": done,
        "quarantine": found.model_dump(),
        "sha256": contents,
        "norms": [shard.norms.figures() for shard in shards],
    }


def _deal(shards: list[_ShardSpool], table: pa.Table, x: F32, plan: Plan) -> None:
    norms = np.sqrt(np.einsum("nd,nd->n", x, x))
    x = _unit(x) if plan.metric is Metric.COSINE else x
    if plan.shards == 1:
        shards[0].append(table, x, norms)
        return
    ids = table.column(ID_COLUMN)
    keys = ids.to_numpy() if plan.id_type is IdType.INT64 else ids.to_pylist()
    homes = shard_of(keys, plan.shards)
    for shard in np.unique(homes):
        mine = np.flatnonzero(homes == shard)
        shards[shard].append(table.take(pa.array(mine)), x[mine], norms[mine])


def _unit(x: F32) -> F32:
    """`normalise`, some rows at a time: its temporaries in float64 then stay in the cache."""
    out = np.empty_like(x)
    for start in range(0, len(x), _UNIT_ROWS):
        out[start : start + _UNIT_ROWS] = normalise(x[start : start + _UNIT_ROWS])
    return out


def _judge(batch: Batch, plan: Plan, start: int, tally: Tally) -> AnyArray:
    reasons = np.array(batch.reasons, dtype=np.uint8)
    good = np.flatnonzero(reasons == 0)
    reasons[good] = quarantine.judge_vectors(batch.vectors[good], plan.metric, plan.build_params.vectors)
    nulls = batch.ids.is_null().to_numpy(zero_copy_only=False)
    if plan.id_type is IdType.STRING:
        reasons[pa.compute.equal(batch.ids, "").fill_null(False).to_numpy(zero_copy_only=False)] = EMPTY_ID
    reasons[nulls] = NULL_ID
    tally.add(reasons, lambda i: f"row {start + i}" if nulls[i] or not batch.ids[i].as_py() else str(batch.ids[i]))
    return reasons


def _rows(batch: Batch, good: AnyArray) -> pa.Table:
    columns = [batch.ids, *batch.attributes.columns]
    table = pa.table(columns, names=[ID_COLUMN, *batch.attributes.column_names])
    return table if len(good) == len(batch.ids) else table.take(pa.array(good))


def _settle(folder: Path, shard: int, plan: Plan, tally: Tally) -> int:
    """Keep the first row of each id and put the rows in order; returns how many. Files that are so stay untouched."""
    if not rows_file(folder, shard).exists():
        return 0
    table = read_rows(rows_file(folder, shard))
    ids = table.column(ID_COLUMN)
    first = quarantine.first_of_each(_codes(ids))
    tally.add(np.where(first, 0, quarantine.DUPLICATE_ID).astype(np.uint8), lambda i: str(ids[i]))
    kept = np.flatnonzero(first)
    if plan.row_order == "id":
        kept = kept[np.asarray(pa.compute.sort_indices(ids.take(pa.array(kept))))]
    if np.array_equal(kept, np.arange(len(first))):
        return len(first)
    x = open_vectors(vectors_file(folder, shard))
    settled = folder / "settled.tmp"
    settled.mkdir()
    with _ShardSpool(settled, shard, plan.d) as out:
        for start in range(0, len(kept), _BLOCK_ROWS):
            mine = kept[start : start + _BLOCK_ROWS]
            out.append(table.take(pa.array(mine)), x[mine])
    del x
    for name in (vectors_file, rows_file):
        name(settled, shard).replace(name(folder, shard))
    settled.rmdir()
    return len(kept)


def _digest(folder: Path, shard: int) -> str:
    if not rows_file(folder, shard).exists():
        return ""
    digest = hashlib.sha256()
    table = read_rows(rows_file(folder, shard)).combine_chunks()
    sink = pa.BufferOutputStream()  # one batch, so that the batches it came in do not count
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    digest.update(sink.getvalue())
    x = open_vectors(vectors_file(folder, shard))
    for start in range(0, len(x), _BLOCK_ROWS):
        digest.update(np.ascontiguousarray(x[start : start + _BLOCK_ROWS]).data)
    return digest.hexdigest()


def _codes(ids: pa.ChunkedArray) -> AnyArray:
    """The same number for the same id."""
    if ids.type == pa.int64():
        return np.asarray(ids.to_numpy())
    return np.asarray(pa.compute.dictionary_encode(ids).combine_chunks().indices)


def _check(found: Quarantine, rows: list[int], rows_in: int, plan: Plan) -> None:
    if rows_in != plan.rows_in:
        raise BuildFailed(
            f"the source had {plan.rows_in} rows when planned and {rows_in} when read: it changed meanwhile"
        )
    quarantine.gate(found, rows_in, plan.max_quarantined)
    if sum(rows) == 0:
        raise BuildFailed(f"all {rows_in} rows are unusable ({found.counts}): nothing is left to build")
    if 0 in rows:
        raise InvalidData(
            f"shard {rows.index(0)} of {len(rows)} got none of the {sum(rows)} rows, which ids are "
            "placed in by their hash: use far fewer --shards"
        )


class _ShardSpool:
    """Appends to the two files of one shard. The .npy header is written last, when the row count is known."""

    def __init__(self, folder: Path, shard: int, d: int) -> None:
        self._vectors_path, self._rows_path = vectors_file(folder, shard), rows_file(folder, shard)
        self._d, self._n = d, 0
        self.norms = SourceNorms()
        self._vectors: BinaryIO | None = None
        self._rows: Any = None

    def __enter__(self) -> _ShardSpool:
        return self

    def append(self, table: pa.Table, x: F32, norms: F32 | None = None) -> None:
        """norms: float32 [n] of the vectors in the source, where they are to be counted."""
        if norms is not None:
            self.norms.add(norms)
        if self._vectors is None:
            self._vectors = self._vectors_path.open("wb")
            self._vectors.write(bytes(_HEADER_BYTES))
            self._rows = pa.ipc.new_file(str(self._rows_path), table.schema)
        # written, not memory-mapped: a full disk is then an error, not a signal
        self._vectors.write(np.ascontiguousarray(x, dtype="<f4").data)
        self._rows.write_table(table.combine_chunks())
        self._n += len(x)

    def __exit__(self, *_: object) -> None:
        if self._vectors is None:
            return
        with self._vectors:
            if self._rows is None:  # the very first write failed, and that is the error to be told
                return
            self._rows.close()
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (self._n, self._d)}
            )
            assert header.tell() == _HEADER_BYTES
            self._vectors.seek(0)
            self._vectors.write(header.getvalue())
