"""Both towers and the temperature as one module whose forward pass is the loss of a step.

Queries come either as pooled states of a frozen encoder or as tokens of one that is trained. Everything that depends on
other processes goes through `Ranks.gather`, so that the loss of several processes is that of one with the whole batch.
Knows nothing about data tables or optimisers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.towers.entity_model import EntityModel, FeatureBatch
from retrieval.training.config import LossSettings
from retrieval.training.losses import LossTerms, Negatives, Temperature, sampled_softmax
from retrieval.training.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class QueryBatch:
    """n query texts. pooled: [n, hidden] of a frozen encoder; or tokens: batches of (ids, mask) of distinct texts, and
    `places` int64 [n] telling which distinct text each of the n is.
    """

    pooled: Tensor | None = None
    tokens: Sequence[tuple[Tensor, Tensor]] = ()
    places: Tensor | None = None


Answers = QueryBatch | FeatureBatch | Tensor  # a tensor is frozen vectors [n, d]


@dataclass(frozen=True, kw_only=True)
class TaskInput:
    """One task's share of a step, of this process; m and r count over all processes.

    answers, randoms: to be encoded; log_q: [m], [r]; excluded: bool [n, m], [n, r]; own: int64 [n]; weights: [n].
    """

    queries: QueryBatch
    answers: Answers
    randoms: Answers | None
    answers_log_q: Tensor
    randoms_log_q: Tensor
    answers_excluded: Tensor
    randoms_excluded: Tensor
    own: Tensor
    weights: Tensor
    weight: float


class UnifiedModel(nn.Module):
    """Task inputs -> loss. `encoder` is None when it is frozen."""

    def __init__(
        self, *, encoder: Any, head: nn.Linear, entity: EntityModel, loss: LossSettings, ranks: Ranks, bfloat16: bool
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.entity = encoder, head, entity
        self.temperature = Temperature(initial=loss.temperature, low=loss.temperature_low, high=loss.temperature_high)
        self._loss, self._ranks, self._bfloat16 = loss, ranks, bfloat16

    def encode_queries(self, batch: QueryBatch) -> Tensor:
        """Unit vectors float32 [n, d]."""
        if batch.pooled is not None:
            return functional.normalize(self.head(batch.pooled), dim=1)
        assert batch.places is not None
        pooled = torch.cat([self._pool(ids, mask) for ids, mask in batch.tokens])
        return functional.normalize(self.head(pooled), dim=1)[batch.places]

    def encode(self, answers: Answers) -> Tensor:
        """Unit vectors float32 [n, d] of whatever answers a task."""
        if isinstance(answers, Tensor):
            return answers
        if isinstance(answers, QueryBatch):
            return self.encode_queries(answers)
        return torch.as_tensor(self.entity(answers))

    def forward(self, tasks: Mapping[str, TaskInput]) -> tuple[Tensor, dict[str, LossTerms]]:
        """Loss of the step, and its parts by task."""
        temperature = self.temperature()
        terms = {name: self._task(task, temperature) for name, task in tasks.items()}
        total = sum(
            (tasks[name].weight * term.total for name, term in terms.items()),
            torch.zeros((), device=temperature.device),
        )
        return total / sum(task.weight for task in tasks.values()), terms

    def _task(self, task: TaskInput, temperature: Tensor) -> LossTerms:
        frozen = isinstance(task.answers, Tensor)
        random = None
        if task.randoms is not None:
            vectors = self._ranks.gather(self.encode(task.randoms))
            random = Negatives(vectors=vectors, log_q=task.randoms_log_q, excluded=task.randoms_excluded)
        vectors = self._ranks.gather(self.encode(task.answers))
        width = vectors.shape[1]
        return sampled_softmax(
            self.encode_queries(task.queries),
            Negatives(vectors=vectors, log_q=task.answers_log_q, excluded=task.answers_excluded),
            task.own,
            random,
            temperature=temperature,
            weights=task.weights,
            # a frozen space was not made for prefixes
            prefixes=(width,) if frozen else self._loss.prefixes,
            prefix_weights=(sum(self._loss.prefix_weights),) if frozen else self._loss.prefix_weights,
            in_batch_weight=self._loss.in_batch_weight,
            random_weight=self._loss.random_weight,
        )

    def _pool(self, ids: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=self._bfloat16):
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        states = states.float() * mask[:, :, None]
        # unit length: the head then sees the same scale as from a frozen encoder
        return functional.normalize(states.sum(dim=1), dim=1)
