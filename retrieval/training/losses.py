"""Sampled softmax of one task (OmniSearchSage, section 3.3): in-batch and random negatives as two terms of their own.

Logits are cosines over the temperature, less the log probability with which the candidate was sampled: the correction
of Bengio and Senécal, which keeps popular entities from being pushed away only because they are often in the batch. The
same loss on each prefix of the embedding, cut and brought to unit length again, keeps truncated embeddings usable
(Kusupati et al. 2022). Knows nothing about towers, ranks or data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import InvalidParams

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.005, 1.0


class Temperature(nn.Module):
    """A learned temperature, kept within limits; the gradient is cut where it would leave them."""

    def __init__(self, *, initial: float, low: float, high: float) -> None:
        """InvalidParams unless MIN_TEMPERATURE <= low <= initial <= high <= MAX_TEMPERATURE."""
        super().__init__()
        if not MIN_TEMPERATURE <= low <= initial <= high <= MAX_TEMPERATURE:
            raise InvalidParams(
                f"temperature {initial} within {low} to {high} is not acceptable: they have to rise from "
                f"{MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
            )
        self.low, self.high = low, high
        self.logarithm = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        return self.logarithm.exp().clamp(self.low, self.high)


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Candidates of one kind. vectors: [m, d]; log_q: [m]; excluded: bool [n, m], True where no negative of a row."""

    vectors: Tensor
    log_q: Tensor
    excluded: Tensor


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """The loss of one task and its parts: `in_batch` and `random` are means over the prefixes, detached."""

    total: Tensor
    in_batch: Tensor
    random: Tensor


def sampled_softmax(
    queries: Tensor,
    in_batch: Negatives,
    own: Tensor,
    random: Negatives | None,
    *,
    temperature: Tensor,
    weights: Tensor,
    prefixes: Sequence[int],
    prefix_weights: Sequence[float],
    in_batch_weight: float = 1.0,
    random_weight: float = 1.0,
) -> LossTerms:
    """Loss of n queries [n, d].

    in_batch: the positives of all rows of the batch, m >= n of them when several processes share it; own: int64 [n],
    the place of each query's positive among them, which is never excluded. random: further candidates or None. weights
    [n] multiply the rows; the total is their sum over n, so give weights of mean 1. A term of weight 0 is not computed.
    """
    rows = torch.arange(len(queries), device=queries.device)
    excluded = in_batch.excluded.clone()
    excluded[rows, own] = False
    zero = queries.new_zeros(())
    total, in_batch_sum, random_sum = zero, zero, zero
    for width, share in zip(prefixes, prefix_weights, strict=True):
        anchors = _prefix(queries, width)
        positives = _prefix(in_batch.vectors, width)
        logits = anchors @ positives.T / temperature - in_batch.log_q
        positive = logits[rows, own]
        if in_batch_weight > 0:
            term = _mean(torch.logsumexp(logits.masked_fill(excluded, -torch.inf), dim=1) - positive, weights)
            total = total + share * in_batch_weight * term
            in_batch_sum = in_batch_sum + share * term.detach()
        if random is not None and random_weight > 0:
            others = anchors @ _prefix(random.vectors, width).T / temperature - random.log_q
            others = others.masked_fill(random.excluded, -torch.inf)
            term = _mean(torch.logsumexp(torch.cat([positive[:, None], others], dim=1), dim=1) - positive, weights)
            total = total + share * random_weight * term
            random_sum = random_sum + share * term.detach()
    return LossTerms(total=total, in_batch=in_batch_sum, random=random_sum)


def _prefix(vectors: Tensor, width: int) -> Tensor:
    return functional.normalize(vectors[:, :width].float(), dim=1)


def _mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / len(losses)
