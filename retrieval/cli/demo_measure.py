"""What the demo's answers are worth: recall against exact float32 search, latency, nDCG of the judged queries.

Takes answers as a client got them and recomputes every score itself; what the server says of its recall is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval import catalogue
from retrieval.topk import exact_search, recall
from retrieval.training.evaluate import Measured, judgments_by_query, ndcg_at_k, summarise
from retrieval.types import F32, Metric


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One query as asked over the wire: the ids that came back, best first, and how long the caller waited."""

    ids: Sequence[str]
    latency_ns: int


@dataclass(frozen=True, kw_only=True)
class Worth:
    """Recall and latency of one index kind over the demo's queries."""

    recall_at_10: float
    recall_at_100: float
    p50_ms: float
    p95_ms: float

    def to_json(self) -> dict[str, float]:
        """The figures under the names people use for them."""
        return {key.replace("_at_", "@"): round(value, 4) for key, value in asdict(self).items()}


def measure(answers: Sequence[Answered], xq: F32, embeddings: Path) -> Worth:
    """Worth of the answers to the queries xq float32 [q, d] over all embeddings in the Parquet folder `embeddings`."""
    table = pq.read_table(embeddings, columns=["id", "embedding"])
    xb = _matrix(table.column("embedding"))
    row_of = {entity: row for row, entity in enumerate(table.column("id").to_pylist())}
    _, best = exact_search(xq, xb, 100, Metric.COSINE)
    found = np.full((len(answers), 100), -np.inf, dtype=np.float32)
    for place, answer in enumerate(answers):
        rows = [row_of[entity] for entity in dict.fromkeys(answer.ids)]
        found[place, : len(rows)] = xb[rows] @ xq[place]
    latencies = np.array([answer.latency_ns for answer in answers]) / 1e6
    p50, p95 = np.percentile(latencies, [50, 95])
    return Worth(
        recall_at_10=recall(found[:, :10], best[:, :10]),
        recall_at_100=recall(found, best),
        p50_ms=float(p50),
        p95_ms=float(p95),
    )


def judged_ndcg(ranked: dict[str, Sequence[str]]) -> Measured:
    """nDCG@10 of the product rankings of the judged queries, query -> ids."""
    table = catalogue.judgments()
    columns: list[list[Any]] = [table.column(name).to_pylist() for name in ("query", "id", "rating")]
    judged = judgments_by_query(*columns)
    queries = sorted(judged)
    return summarise(ndcg_at_k([ranked[query] for query in queries], [judged[query] for query in queries], 10))


def judged_queries() -> list[str]:
    """The 85 judged product queries."""
    return sorted(set(catalogue.judgments().column("query").to_pylist()))


def pin_queries(count: int) -> list[str]:
    """`count` subject words that the shipped pins are tagged with, the most frequent first: real queries for pins."""
    tags = pa.chunked_array([chunk.flatten() for chunk in catalogue.pins().column("tags").chunks])
    counted = tags.value_counts()
    order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:count]
    return [str(word) for word in counted.field("values").take(pa.array(order)).to_pylist()]


def _matrix(column: pa.ChunkedArray) -> F32:
    values = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks])
    return np.asarray(values, dtype=np.float32).reshape(len(column), -1)
