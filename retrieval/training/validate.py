"""Recall on validation pairs while training, against a sample of the entities that holds all the answers.

A quick look that decides when to stop, not the evaluation (`retrieval.training.report`), which searches everything.
"""

from __future__ import annotations

import numpy as np
import torch

from retrieval.topk import exact_search
from retrieval.training.config import RunSettings
from retrieval.training.data import TrainData
from retrieval.training.evaluate import recall_at_k
from retrieval.training.inputs import InputMaker
from retrieval.training.model import UnifiedModel
from retrieval.types import F32, I64, Metric

_CHUNK = 4_096


class Validator:
    """Recall@10 by task; draws its queries and entities once, with the run's seed."""

    def __init__(self, data: TrainData, inputs: InputMaker, run: RunSettings) -> None:
        random = np.random.default_rng((run.seed, 7))
        self._inputs = inputs
        self._queries: dict[str, I64] = {}
        self._truth: dict[str, list[dict[int, int]]] = {}
        answers = []
        for name, pairs in data.validation.items():
            distinct = np.unique(pairs.queries)
            kept = np.sort(random.permutation(distinct)[: run.validation_queries])
            truth: dict[int, dict[int, int]] = {int(query): {} for query in kept}
            for query, answer in zip(pairs.queries.tolist(), pairs.answers.tolist(), strict=True):
                if query in truth:
                    truth[query][answer] = 1
            self._queries[name], self._truth[name] = kept, list(truth.values())
            answers.append(np.array([answer for found in truth.values() for answer in found], dtype=np.int64))
        needed = np.unique(np.concatenate(answers))
        others = random.permutation(np.setdiff1d(np.arange(len(data.entities)), needed))
        self._rows = np.sort(np.concatenate([needed, others[: max(0, run.validation_entities - len(needed))]]))

    def recall(self, model: UnifiedModel) -> dict[str, float]:
        """Mean recall@10 of each validated task."""
        was_training = model.training
        model.eval()
        try:
            base = self._encode(model, self._rows, entities=True)
            out = {}
            for name, queries in self._queries.items():
                found, _ = exact_search(self._encode(model, queries, entities=False), base, 10, Metric.COSINE)
                ranked = [[int(self._rows[row]) for row in rows if row >= 0] for rows in found]
                out[name] = float(recall_at_k(ranked, self._truth[name], 10).mean())
            return out
        finally:
            model.train(was_training)

    @torch.no_grad()
    def _encode(self, model: UnifiedModel, numbers: I64, *, entities: bool) -> F32:
        parts = []
        for start in range(0, len(numbers), _CHUNK):
            chunk = numbers[start : start + _CHUNK]
            vectors = (
                model.entity(self._inputs.entities(chunk))
                if entities
                else model.encode_queries(self._inputs.queries(chunk))
            )
            parts.append(vectors.float().cpu().numpy())
        return np.concatenate(parts)
