"""What every structure of a build costs in memory and on disk, as one table of formulas with the source of each.

Memory counts what the system cannot take back: anonymous pages (Pss_Anon), not the page cache of mapped files. The
constants of processes and of reading were measured (Linux x86-64, CPython 3.11); those of structures follow from how
the libraries lay them out. Knows nothing about sources, settings or the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from retrieval.types import IndexKind

Stage: TypeAlias = Literal["main", "read", "train", "add", "verify", "spool", "settle", "generation", "scratch"]
MEMORY: tuple[Stage, ...] = ("main", "read", "train", "add", "verify")
PROCESS = 26_000_000  # one shard process: interpreter, numpy, hnswlib or faiss
_MAIN, _TRACKER = 86_000_000, 6_000_000
_FAISS = 16_000_000
_SETTLED = 65_536  # index_builders.spool: rows put in order at once
_BATCH = 1 << 23  # index_builders.source: bytes of one batch
_BLOCK = 2 << 24  # retrieval.topk: scores held at once by exact search, and those of the block before
_FLAT_CHUNK, _IVFPQ_CHUNK = 16_384, 32_768  # rows written at once


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a formula may use: rows and d of one shard, all rows of the build, bytes per row of ids and attributes."""

    rows: int
    all_rows: int
    d: int
    row_bytes: float
    queries: int
    params: dict[str, Any]

    @property
    def vector_bytes(self) -> int:
        """Bytes of one stored vector."""
        return self.d * (4 if self.params.get("vectors") == "float32" else 2)

    @property
    def code_bytes(self) -> float:
        """Bytes of one IVF-PQ row in its list: the code, padded as faiss pads it, and the int64 row number."""
        return self.d / int(self.params["pq_dims"]) * int(self.params["pq_bits"]) / 8 + 8

    @property
    def graph_bytes(self) -> float:
        """Bytes of one row in hnswlib's base layer: links and their count, the vector, the label."""
        return 4.0 * (2 * int(self.params["m"]) + 1) + 4 * self.d + 8


@dataclass(frozen=True, kw_only=True)
class Term:
    """One line of the table: in which stage, for which kinds (None: all), what, how many bytes, and says who."""

    stage: Stage
    kind: IndexKind | None = None
    what: str
    bytes: Callable[[Part], float]
    source: str


_FLAT, _HNSW, _IVFPQ = IndexKind.FLAT, IndexKind.HNSW, IndexKind.IVFPQ
TABLE: tuple[Term, ...] = (
    Term(stage="main", what="interpreter and libraries", bytes=lambda _: _MAIN + _TRACKER, source="measured"),
    Term(
        stage="main",
        what="allocator's remains of reading",
        bytes=lambda p: min(40e6, 80.0 * p.all_rows),
        source="measured",
    ),
    Term(
        stage="read",
        what="a batch: decoded, filtered, normalised, dealt",
        bytes=lambda p: 9.0 * min(_BATCH, 4 * p.d * p.all_rows),
        source="measured, in copies of a batch",
    ),
    Term(
        stage="read",
        what="ids of a shard, hashed to find duplicates",
        bytes=lambda p: min(p.rows, 400_000) * 110.0 + max(0, p.rows - 400_000) * 72.0,
        source="pyarrow dictionary_encode, numpy unique; measured",
    ),
    Term(
        stage="train",
        kind=_IVFPQ,
        what="sample, once gathered and once joined",
        bytes=lambda p: 2.1 * 4 * p.d * min(p.all_rows, p.params["train_rows"]),
        source="index_builders.train; 5 % for k-means",
    ),
    Term(stage="train", kind=_IVFPQ, what="faiss", bytes=lambda _: _FAISS, source="measured"),
    Term(stage="add", kind=_IVFPQ, what="faiss", bytes=lambda _: _FAISS, source="measured"),
    Term(
        stage="read",
        what="rows of a shard while they are put in order and hashed",
        bytes=lambda p: 4.0 * p.d * min(p.rows, _SETTLED) + 2 * p.rows * p.row_bytes,
        source="index_builders.spool",
    ),
    Term(
        stage="add",
        kind=_FLAT,
        what="a chunk, its magnitudes and its stored type",
        bytes=lambda p: 8.0 * p.d * min(p.rows, _FLAT_CHUNK) + 8 * p.rows,
        source="index_builders.flat",
    ),
    Term(
        stage="add",
        kind=_HNSW,
        what="base layer: links, vector, label",
        bytes=lambda p: p.rows * p.graph_bytes,
        source="hnswlib hnswalg.h: size_data_per_element_",
    ),
    Term(
        stage="add",
        kind=_HNSW,
        what="upper layers",
        bytes=lambda p: p.rows / (p.params["m"] - 1) * (4 * (p.params["m"] + 1) + 16),
        source="hnswlib linkLists_; a row is above with probability 1/M (Malkov and Yashunin 2016, 4.1)",
    ),
    Term(
        stage="add",
        kind=_HNSW,
        what="per row: pointer 8, level 4, mutex 40, label's hash node 40, visited mark 2",
        bytes=lambda p: 94.0 * p.rows,
        source="hnswlib hnswalg.h, glibc sizes",
    ),
    Term(
        stage="add",
        kind=_HNSW,
        what="a chunk of rows on their way, and the label locks",
        bytes=lambda p: 4.0 * p.d * min(p.rows, _FLAT_CHUNK) + 2.6e6,
        source="index_builders.hnsw; hnswlib MAX_LABEL_OPERATION_LOCKS",
    ),
    Term(
        stage="add",
        kind=_IVFPQ,
        what="inverted lists, grown by doubling",
        bytes=lambda p: 2.0 * p.rows * p.code_bytes,
        source="faiss ArrayInvertedLists",
    ),
    Term(
        stage="add",
        kind=_IVFPQ,
        what="list of each row and order",
        bytes=lambda p: 16.0 * p.rows,
        source="numpy argsort",
    ),
    Term(
        stage="add",
        kind=_IVFPQ,
        what="a block: rows, residuals, tables",
        bytes=lambda p: 4.5 * 4 * p.d * min(p.rows, _IVFPQ_CHUNK),
        source="faiss IndexIVFFastScan::add_with_ids; measured, in copies of a block",
    ),
    Term(
        stage="add",
        kind=_IVFPQ,
        what="centroids, and the empty lists",
        bytes=lambda p: p.params["nlist"] * (4.0 * p.d + 96),
        source="faiss IndexFlat, ArrayInvertedLists",
    ),
    Term(
        stage="verify",
        what="scores of all queries over a block of rows",
        bytes=lambda p: 4.0 * min(_BLOCK, p.queries * p.rows),
        source="retrieval.topk.exact_search",
    ),
    Term(
        stage="verify",
        kind=_IVFPQ,
        what="the index, opened",
        bytes=lambda p: p.rows * p.code_bytes + p.params["nlist"] * 4.0 * p.d,
        source="faiss read_index",
    ),
    Term(stage="verify", what="buffers of searches", bytes=lambda _: 6e6, source="measured"),
    # on disk
    Term(
        stage="spool",
        what="vectors as float32, ids and attributes",
        bytes=lambda p: p.all_rows * (4.0 * p.d + p.row_bytes + 8),
        source="index_builders.spool; 8 for the order of rows",
    ),
    Term(
        stage="settle",
        what="a shard's spool once more, while its rows are put in order",
        bytes=lambda p: p.rows * (4.0 * p.d + p.row_bytes),
        source="index_builders.spool",
    ),
    Term(
        stage="generation",
        what="stored vectors",
        bytes=lambda p: float(p.all_rows * p.vector_bytes),
        source="vectors.npy",
    ),
    Term(
        stage="generation",
        what="ids and attributes",
        bytes=lambda p: p.all_rows * p.row_bytes,
        source="rows.arrow",
    ),
    Term(
        stage="generation",
        kind=_HNSW,
        what="links",
        bytes=lambda p: p.all_rows * (8.0 * p.params["m"] + 4 * (p.params["m"] + 2) / (p.params["m"] - 1)),
        source="neighbors.npy, upper_*.npy",
    ),
    Term(
        stage="generation",
        kind=_HNSW,
        what="codes, with scale and bias",
        bytes=lambda p: p.all_rows * (64.0 * -(-p.d // 64) + 8),
        source="retrieval.kernel.code_width; dropped where they would cost recall",
    ),
    Term(
        stage="generation",
        kind=_IVFPQ,
        what="inverted lists and centroids",
        bytes=lambda p: p.all_rows * p.code_bytes + p.params["nlist"] * 4.0 * p.d,
        source="faiss write_index",
    ),
    Term(
        stage="scratch",
        kind=_HNSW,
        what="hnswlib's saved graph, one per shard at work",
        bytes=lambda p: p.rows * (p.graph_bytes + 4 + 4 * (p.params["m"] + 1) / (p.params["m"] - 1)),
        source="hnswlib saveIndex",
    ),
)


def total(stage: Stage, kind: IndexKind, part: Part) -> float:
    """Bytes of one stage for one part."""
    return sum(term.bytes(part) for term in TABLE if term.stage == stage and term.kind in {None, kind})


def bytes_per_row(kind: IndexKind, params: dict[str, Any], rows: int, d: int) -> float:
    """Bytes per row of a shard's index files as served: vectors, links, codes and lists; no ids, no attributes."""
    part = Part(rows=rows, all_rows=rows, d=d, row_bytes=0.0, queries=0, params=params)
    return total("generation", kind, part) / rows
