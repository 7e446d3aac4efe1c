"""Systems beside each other on held-out queries: recall@10, recall@100 and nDCG@10 per task and prefix.

Every figure is a mean over queries with a 95 % bootstrap interval (`retrieval.training.evaluate`). Relevant is a rating
above 0; gains of nDCG are 2^rating - 1. Knows nothing about what a system is made of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.errors import InvalidData
from retrieval.training.evaluate import F64, Measured, ndcg_at_k, recall_at_k, summarise
from retrieval.training.questions import Questions
from retrieval.training.rankings import Progress, Rankings, System

DEPTH = 100
METRICS = ("recall@10", "recall@100", "ndcg@10")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One figure. prefix: dimensions, None where a system has none; candidates: how many were searched."""

    system: str
    task: str
    prefix: int | None
    metric: str
    measured: Measured
    candidates: int
    seconds: float

    def to_row(self) -> dict[str, Any]:
        """As one flat JSON object; seconds are those of ranking the whole task, all prefixes together."""
        return {
            "system": self.system,
            "task": self.task,
            "prefix": self.prefix,
            "metric": self.metric,
            "mean": round(self.measured.mean, 6),
            "low": round(self.measured.low, 6),
            "high": round(self.measured.high, 6),
            "queries": self.measured.queries,
            "candidates": self.candidates,
            "seconds": round(self.seconds, 3),
        }


def evaluate_system(
    system: System, questions: Mapping[str, Questions], *, progress: Progress | None = None
) -> list[Score]:
    """Scores of one system on all tasks, by task, prefix and metric; InvalidData when a task has nothing relevant."""
    out = []
    for done, (task, asked) in enumerate(questions.items()):
        started = time.perf_counter()
        ranked = system.rank(asked, DEPTH)
        seconds = time.perf_counter() - started
        for prefix, rankings in ranked.items():
            for metric, values in values_of(rankings, asked.ratings).items():
                try:
                    measured = summarise(values)
                except InvalidData as error:
                    raise InvalidData(f"task {task!r}: {error}") from None
                out.append(
                    Score(
                        system=system.name,
                        task=task,
                        prefix=prefix,
                        metric=metric,
                        measured=measured,
                        candidates=asked.candidates,
                        seconds=seconds,
                    )
                )
        if progress is not None:
            progress(f"{system.name}: search", done + 1, len(questions))
    return out


def values_of(ranked: Rankings, ratings: Sequence[Mapping[int, float]]) -> dict[str, F64]:
    """Each metric as float64 [q], NaN for a query without anything relevant."""
    relevant_from = float(np.finfo(np.float64).tiny)  # any rating above 0
    return {
        "recall@10": recall_at_k(ranked, ratings, 10, relevant_from=relevant_from),
        "recall@100": recall_at_k(ranked, ratings, 100, relevant_from=relevant_from),
        "ndcg@10": ndcg_at_k(ranked, ratings, 10),
    }
