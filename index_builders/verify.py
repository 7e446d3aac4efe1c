"""Stage 4, verify: how good the built index really is, measured on the files that will be served.

Every shard is opened from its staged files, one at a time, so that no more than one is in memory. The merged answer is
held against exact search over float32 for a ladder of efforts; the cheapest effort that reaches the wanted recall
becomes the default. Latency is that of one thread searching the shards one after another. Knows nothing about stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from index_builders import crossover
from retrieval import topk
from retrieval.canaries import Canaries, write_canaries
from retrieval.canaries import K as CANARY_K
from retrieval.errors import BuildFailed
from retrieval.indexes import open_index
from retrieval.indexes.hnsw import HnswIndex
from retrieval.params import SEARCH_PARAMS, HnswSearch, SearchParams, make_params
from retrieval.store.manifest import FrontierPoint, ScanCrossover
from retrieval.types import F32, I32, I64, NO_ROW, AnyArray, IndexKind, Metric

K = 100
_BLOCK_ELEMENTS = 1 << 22  # scores held at once by an exact search: 16 MiB of float32
# from K on: a smaller pool would be widened to K by the search, and the figures would be those of another effort
HNSW_EFFORTS = (100, 150, 200, 300, 400, 800)
# (lists, candidates rescored); with K candidates the answer is the codes' own, rescored only for its order
IVFPQ_EFFORTS = (
    *((4, 200), (8, 200), (16, K), (16, 300), (32, 400), (64, K), (64, 400), (64, 800), (128, 800), (256, K)),
    (256, 1_600),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One shard to measure. exact: the vectors [n, d] that are the truth; order[r]: which of them index row r is."""

    path: Path
    kind: IndexKind
    rows: int
    exact: Callable[[], AnyArray]
    order: Callable[[], I64 | None]
    ids: Callable[[], pa.ChunkedArray]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found: the frontier in order of effort, the chosen effort, and what a person should be told."""

    frontier: list[FrontierPoint]
    default: SearchParams
    chosen: FrontierPoint
    warnings: list[str] = field(default_factory=list)


def efforts(kind: IndexKind, build_params: dict[str, Any]) -> list[SearchParams]:
    """The ladder of efforts of a kind, cheapest first."""
    cls = SEARCH_PARAMS[kind]
    if kind is IndexKind.HNSW:
        return [make_params(cls, {"ef": ef}) for ef in HNSW_EFFORTS]
    if kind is IndexKind.IVFPQ:
        nlist = int(build_params["nlist"])
        ladder = dict.fromkeys((min(nprobe, nlist), rescore) for nprobe, rescore in IVFPQ_EFFORTS)
        return [make_params(cls, {"nprobe": nprobe, "rescore": rescore}) for nprobe, rescore in ladder]
    return [make_params(cls, {})]


def measure(
    parts: Sequence[Part],
    xq: F32,
    metric: Metric,
    ladder: Sequence[SearchParams],
    *,
    target_recall: float,
    query_kind: Literal["", "real", "items"] = "",
    progress: Callable[[str, int, int], None] | None = None,
) -> Measured:
    """Recall and latency of the merged answer of `parts` for queries xq [q, d], for each effort of the ladder.

    query_kind: what the queries are, kept with every figure. Raises BuildFailed when a shard holds other rows than it
    should or answers with rows that do not exist.
    """
    k = min(K, sum(part.rows for part in parts))
    runs = [Run(len(xq), k) for _ in ladder]
    truth = Best(len(xq), k)
    for done, part in enumerate(parts):
        index = open_index(part.kind, part.path)
        if index.n != part.rows or index.d != xq.shape[1] or index.metric is not metric:
            raise BuildFailed(
                f"{part.path} opens as {index.n} rows of {index.d} dimensions ({index.metric}), built were {part.rows} "
                f"of {xq.shape[1]} ({metric})"
            )
        exact, order = part.exact(), part.order()
        truth.search(xq, exact, metric)
        for run, params in zip(runs, ladder, strict=True):
            index.search(xq[:1], k, params)  # warm-up: pages and lazily made buffers
            answers = []
            for i in range(len(xq)):
                began = time.perf_counter_ns()
                found = index.search(xq[i : i + 1], k, params)
                run.latency_ns[i] += time.perf_counter_ns() - began
                answers.append(found)
            rows, own = (np.concatenate([getattr(each, name) for each in answers]) for name in ("rows", "scores"))
            scores = rescored_all(xq, rows, exact, order, metric)
            for i in range(len(xq)):
                run.take(i, own[i], scores[i])
            run.merge(k)
        if progress is not None:
            progress("verify", done + 1, len(parts))
    points = [run.point(params, truth.scores) for run, params in zip(runs, ladder, strict=True)]
    frontier = [point.model_copy(update={"query_kind": query_kind}) for point in points]
    good = [i for i, point in enumerate(frontier) if point.recall_at_100 >= target_recall]
    chosen = good[0] if good else int(np.argmax([point.recall_at_100 for point in frontier]))
    warnings = []
    if not good:
        warnings.append(
            f"no measured effort reaches recall@100 {target_recall:.3f}; the default is the best, "
            f"{frontier[chosen].recall_at_100:.4f}: {frontier[chosen].params}"
        )
    return Measured(frontier=frontier, default=ladder[chosen], chosen=frontier[chosen], warnings=warnings)


def canaries(
    parts: Sequence[Part],
    xq: F32,
    params: SearchParams,
    out: Path,
    *,
    texts: tuple[str, ...] = (),
    space_id: str = "",
) -> None:
    """Write `out`: queries xq float32 [c, d], ids [c, k] and scores float32 [c, k] of the merged answer at `params`.

    texts: what the queries were encoded from, "" for those that come from no text; space_id: of their encoder.
    """
    k = min(CANARY_K, sum(part.rows for part in parts))
    ids: list[AnyArray] = []
    scores: list[F32] = []
    for part in parts:
        found = open_index(part.kind, part.path).search(xq, min(k, part.rows), params)
        real = found.rows != NO_ROW
        names = part.ids().take(pa.array(found.rows[real])).to_pylist()  # of all queries at once
        mine = np.split(np.array(names), np.cumsum(real.sum(axis=1))[:-1])
        ids = [np.concatenate(pair) for pair in zip(ids, mine, strict=True)] if ids else mine
        own = np.split(found.scores[real], np.cumsum(real.sum(axis=1))[:-1])
        scores = [np.concatenate(pair) for pair in zip(scores, own, strict=True)] if scores else own
    merged = [topk.merge(a, b, k) for a, b in zip(ids, scores, strict=True)]
    if any(len(answer[0]) != k for answer in merged):
        raise BuildFailed(f"a canary query got fewer than {k} distinct answers at {params}")
    ids_found, scores_found = (np.stack(each) for each in zip(*merged, strict=True))
    write_canaries(out, Canaries(queries=xq, scores=scores_found, ids=ids_found, texts=texts, space_id=space_id))


def scan_crossovers(parts: Sequence[Part], xq: F32, params: SearchParams, seed: int) -> dict[IndexKind, ScanCrossover]:
    """What `crossover` measures on the largest of the parts at the effort `params`; empty but for graphs."""
    largest = max(parts, key=lambda part: part.rows)
    index = open_index(largest.kind, largest.path)
    if not isinstance(index, HnswIndex) or not isinstance(params, HnswSearch):
        return {}
    found = crossover.measure_crossover(index, xq, min(K, index.n), params, seed=seed)
    return {} if found is None else {largest.kind: found}


def gate(measured: Measured, min_recall: float) -> None:
    """BuildFailed when the chosen effort's recall@100 is below `min_recall`."""
    point = measured.chosen
    if point.recall_at_100 < min_recall:
        raise BuildFailed(
            f"recall@100 is {point.recall_at_100:.4f} at {point.params} (p50 {point.p50_ms:.2f} ms), below the floor "
            f"of {min_recall:.2f}: build with more links, lists or code bits, or lower --min-recall"
        )


class Run:
    """One effort's merged answer so far: scores as the shards gave them, and the same entries' float32 scores."""

    def __init__(self, q: int, k: int) -> None:
        self.latency_ns = np.zeros(q, dtype=np.int64)
        self._own: list[F32] = [np.empty(0, dtype=np.float32)] * q
        self._exact: list[F32] = [np.empty(0, dtype=np.float32)] * q
        self._k = k

    def take(self, i: int, own: F32, exact: F32) -> None:
        """Add a shard's answer to query i: its own scores and the exact ones."""
        self._own[i] = np.concatenate([self._own[i], own])
        self._exact[i] = np.concatenate([self._exact[i], exact])

    def merge(self, k: int) -> None:
        """Cut every answer to its k best by the shards' own scores."""
        for i, own in enumerate(self._own):
            order = np.argsort(-own, kind="stable")[:k]
            self._own[i], self._exact[i] = own[order], self._exact[i][order]

    def recall(self, truth: F32) -> float:
        """Recall against the best exact scores truth [q, k]."""
        return topk.recall(np.stack(self._exact), truth)

    def point(self, params: SearchParams, truth: F32) -> FrontierPoint:
        """The measured worth, against the best exact scores truth [q, k]."""
        found = np.stack(self._exact)
        p50, p95 = np.percentile(self.latency_ns, [50, 95]) / 1e6
        return FrontierPoint(
            params=params.model_dump(mode="json"),
            recall_at_10=topk.recall(found[:, :10], truth[:, :10]),
            recall_at_100=topk.recall(found, truth),
            p50_ms=round(float(p50), 4),
            p95_ms=round(float(p95), 4),
            queries=len(found),
        )


class Best:
    """The k best exact scores of each query over parts that are searched one after another.

    scores: float32 [q, k], descending, -inf while fewer were seen. Only what beats the k-th best so far is sorted in,
    which after the first part is little.
    """

    def __init__(self, q: int, k: int) -> None:
        self.scores: F32 = np.full((q, k), -np.inf, dtype=np.float32)

    def search(self, xq: F32, xb: AnyArray, metric: Metric) -> None:
        """Take in all rows of xb [n, d] for the queries xq float32 [q, d]."""
        block = max(1, _BLOCK_ELEMENTS // max(1, len(xq)))
        for start in range(0, len(xb), block):
            self.take(topk.scores(xq, xb[start : start + block], metric))

    def take(self, values: F32) -> None:
        """Take in the scores [q, n] of n more rows."""
        k = self.scores.shape[1]
        if np.isneginf(self.scores[:, -1]).any():
            cut = values.shape[1] - min(k, values.shape[1])
            self.scores = best(np.concatenate([self.scores, np.partition(values, cut, axis=1)[:, cut:]], axis=1), k)
            return
        # one-dimensional: numpy finds few among many far sooner there
        query, column = np.divmod(np.flatnonzero(values > self.scores[:, -1:]), values.shape[1])
        counts = np.bincount(query, minlength=len(values))
        better = np.full((len(values), int(counts.max(initial=0))), -np.inf, dtype=np.float32)
        better[query, np.arange(len(query)) - (np.cumsum(counts) - counts)[query]] = values[query, column]
        self.scores = best(np.concatenate([self.scores, better], axis=1), k)


def best(scores: F32, k: int) -> F32:
    """The k highest of scores [q, n] per query, descending."""
    return np.asarray(-np.sort(-scores, axis=1)[:, :k], dtype=np.float32)


def rescored(query: F32, rows: I32, exact: AnyArray, order: I64 | None, metric: Metric) -> F32:
    """Exact scores [n] of index rows [n], -inf for padding; BuildFailed for a row answered twice."""
    out = np.full(len(rows), -np.inf, dtype=np.float32)
    real = rows != NO_ROW
    source = rows[real] if order is None else order[rows[real]]
    if len(np.unique(source)) != len(source):
        raise BuildFailed("a shard answered one row twice")
    out[real] = topk.scores(query[None], exact[source], metric)[0]
    return out


def rescored_all(xq: F32, rows: I32, exact: AnyArray, order: I64 | None, metric: Metric) -> F32:
    """Exact scores float32 [q, m] of index rows [q, m] for their queries xq float32 [q, d]: `rescored` for many."""
    check_distinct(rows)
    out = np.full(rows.shape, -np.inf, dtype=np.float32)
    at_once = max(1, _BLOCK_ELEMENTS // max(1, rows.shape[1] * xq.shape[1]))
    for start in range(0, len(rows), at_once):
        query, place = np.nonzero(rows[start : start + at_once] != NO_ROW)
        query += start
        mine = rows[query, place]
        out[query, place] = pair_scores(xq[query], exact[mine if order is None else order[mine]], metric)
    return out


def check_distinct(rows: I32) -> None:
    """BuildFailed when an answer of index rows [q, m], padded, names a row twice."""
    in_order = np.sort(rows, axis=1)
    if ((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] != NO_ROW)).any():
        raise BuildFailed("a shard answered one row twice")


def pair_scores(xq: F32, xb: AnyArray, metric: Metric) -> F32:
    """Scores float32 [n] of each query [n, d] and the base row [n, d] of the same number."""
    base = np.asarray(xb, dtype=np.float32)
    dots = np.einsum("nd,nd->n", xq, base)
    if metric is Metric.L2:
        dots = 2 * dots - np.einsum("nd,nd->n", xq, xq) - np.einsum("nd,nd->n", base, base)
    return np.asarray(dots, dtype=np.float32)
