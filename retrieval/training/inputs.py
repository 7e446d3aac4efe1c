"""From the numbers of a step to the tensors of this process: features, tokens, masks and sampling probabilities.

Every process sees the numbers of the whole batch and encodes its own share. Which features are hidden in a step follows
from the seed and the step alone. Knows nothing about optimisers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from retrieval.towers.encoder import Encoder
from retrieval.towers.entity_model import FeatureBatch
from retrieval.training.config import Answer, TrainSettings
from retrieval.training.data import TrainData
from retrieval.training.model import Answers, QueryBatch, TaskInput
from retrieval.training.ranks import Ranks
from retrieval.training.sampler import TaskBatch
from retrieval.training.sketch import CountMinSketch
from retrieval.types import F32, I64, Bool

_CPU_BATCH = 64  # texts of one forward pass on a CPU, where padding costs more than another pass


class InputMaker:
    """Batches into `TaskInput`s. Holds the sketch, which counts every answer it is shown."""

    def __init__(self, settings: TrainSettings, data: TrainData, encoder: Encoder, ranks: Ranks) -> None:
        """encoder: for its tokenizer, and only where it is trained."""
        self._settings, self._data, self._ranks = settings, data, ranks
        self.sketch = CountMinSketch(width=settings.loss.sketch_width, depth=settings.loss.sketch_depth)
        self._tokens = encoder.tokenise(data.queries) if data.pooled is None else []
        self._pad_id = encoder.pad_id
        self._places = {name: place for place, name in enumerate(settings.tasks)}

    def make(self, batches: Mapping[str, TaskBatch], step: int, *, count: bool = True) -> dict[str, TaskInput]:
        """Inputs of this process for one step; counts its answers in the sketch first, unless they are counted."""
        if count and self._settings.loss.correction:
            for name, batch in batches.items():
                self.sketch.add(self._keys(name, batch.answers))
        return {name: self._task(name, batch, step) for name, batch in batches.items()}

    def answered_by_query(self, task: str) -> bool:
        """Whether the answers of a task are queries, so that their numbers are those of texts."""
        return self._settings.tasks[task].answer is Answer.QUERY

    def queries(self, numbers: I64) -> QueryBatch:
        """Query texts by number, for the query tower."""
        device = self._ranks.device
        if self._data.pooled is not None:
            return QueryBatch(pooled=torch.from_numpy(self._data.pooled[numbers]).to(device))
        distinct, places = np.unique(numbers, return_inverse=True)
        order = np.argsort([-len(self._tokens[number]) for number in distinct], kind="stable")
        size = _CPU_BATCH if device.type == "cpu" else len(distinct)
        batches = [self._padded(distinct[order[start : start + size]]) for start in range(0, len(distinct), size)]
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return QueryBatch(tokens=batches, places=torch.from_numpy(back[places]).to(device))

    def entities(self, rows: I64, keep: Bool | None = None) -> FeatureBatch:
        """Entities by row, for the entity tower; keep: see `FeatureBatch.of`."""
        return FeatureBatch.of(self._data.features.take(rows), device=self._ranks.device, keep=keep)

    def _task(self, name: str, batch: TaskBatch, step: int) -> TaskInput:
        own = self._ranks.own(len(batch.queries))
        known = self._data.known[name]
        excluded = known.mask(batch.queries[own], batch.answers)
        random_excluded = known.mask(batch.queries[own], batch.randoms)
        if self._settings.tasks[name].answer is Answer.QUERY:  # a query is no negative of itself
            excluded |= batch.queries[own][:, None] == batch.answers[None, :]
            random_excluded |= batch.queries[own][:, None] == batch.randoms[None, :]
        log_q, random_log_q = self._log_q(name, batch)
        random_own = self._ranks.own(len(batch.randoms))
        return TaskInput(
            queries=self.queries(batch.queries[own]),
            answers=self._answers(name, batch.answers, own, step, 0),
            randoms=self._answers(name, batch.randoms, random_own, step, 1) if len(batch.randoms) else None,
            answers_log_q=self._tensor(log_q),
            randoms_log_q=self._tensor(random_log_q),
            answers_excluded=torch.from_numpy(excluded).to(self._ranks.device),
            randoms_excluded=torch.from_numpy(random_excluded).to(self._ranks.device),
            own=torch.arange(own.start, own.stop, device=self._ranks.device),
            weights=self._tensor(batch.weights[own]),
            weight=self._settings.tasks[name].weight,
        )

    def _answers(self, name: str, numbers: I64, own: slice, step: int, which: int) -> Answers:
        task = self._settings.tasks[name]
        if task.answer is Answer.QUERY:
            return self.queries(numbers[own])
        if task.answer is Answer.FROZEN:
            assert task.frozen_vector is not None
            return self._tensor(self._data.frozen[task.frozen_vector][numbers[own]])
        hidden = self._settings.entity.feature_dropout
        keep = None
        if hidden > 0:  # drawn for the whole batch, so that it does not depend on the number of processes
            random = np.random.default_rng((self._settings.run.seed, self._places[name], 2 + which, step))
            keep = random.random((len(numbers), self._data.features.present.shape[1]))[own] >= hidden
        return self.entities(numbers[own], keep)

    def _log_q(self, name: str, batch: TaskBatch) -> tuple[F32, F32]:
        if not self._settings.loss.correction:
            return np.zeros(len(batch.answers), dtype=np.float32), np.zeros(len(batch.randoms), dtype=np.float32)
        estimated = self.sketch.log_probability(self._keys(name, batch.answers)) + np.log(len(self._places))
        uniform = np.full(len(batch.randoms), -np.log(len(self._data.pools[name])))
        return estimated.astype(np.float32), uniform.astype(np.float32)

    def _keys(self, name: str, numbers: I64) -> np.typing.NDArray[np.uint64]:
        return np.asarray(numbers.astype(np.uint64) | np.uint64(self._places[name] << 48))

    def _padded(self, numbers: I64) -> tuple[Tensor, Tensor]:
        rows = [self._tokens[number] for number in numbers]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [self._pad_id] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([[len(row)] for row in rows])
        mask = (torch.arange(longest)[None, :] < lengths).long()
        return ids.to(self._ranks.device), mask.to(self._ranks.device)

    def _tensor(self, values: F32) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).to(self._ranks.device)
