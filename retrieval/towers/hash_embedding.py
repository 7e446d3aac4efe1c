"""Hash embeddings (Svenstrup et al. 2017): each id is a learned mix of two rows of a small shared table.

Two hashes send an id to two rows of the component table, two importance weights of its own mix them: ids that collide
in one row seldom collide in both, and a rare id costs two numbers instead of a vector. Bags of ids give the sum of
their embeddings over the square root of their number. Knows nothing about tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import InvalidParams

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # odd 32-bit constants of xxHash
_SHIFTS = (15, 13)


class HashEmbedding(nn.Module):
    """Bags of ids into vectors float32 [bags, dim]."""

    first: Tensor
    second: Tensor

    def __init__(self, *, ids: int, rows: int, dim: int) -> None:
        """ids: number of ids; rows: of the component table; InvalidParams when one of the three is below 1."""
        super().__init__()
        if min(ids, rows, dim) < 1:
            raise InvalidParams(
                f"a hash embedding of {ids} ids, {rows} rows and {dim} dimensions needs all three from 1"
            )
        self.components = nn.Parameter(torch.randn(rows, dim) * dim**-0.5)
        self.importance = nn.Parameter(torch.full((ids, 2), 0.5))
        numbers = torch.arange(ids)
        self.register_buffer("first", _hash(numbers, rows, 0), persistent=False)
        self.register_buffer("second", _hash(numbers, rows, 1), persistent=False)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """ids: int64 [t]; offsets: int64 [bags + 1], the last one t; an empty bag gives zeros."""
        rows = torch.stack([self.first[ids], self.second[ids]], dim=1).view(-1)
        weights = self.importance[ids].view(-1)
        summed = functional.embedding_bag(
            rows, self.components, offsets * 2, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return summed * _scale(offsets)

    @torch.no_grad()
    def folded(self) -> Tensor:
        """One row per id, float32 [ids, dim]: for serving, where one lookup replaces two and their mixing."""
        mixed = self.components[self.first] * self.importance[:, :1]
        return mixed + self.components[self.second] * self.importance[:, 1:]


def folded_bags(table: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """What `HashEmbedding.forward` gives, from the table that `folded` gave."""
    summed = functional.embedding_bag(ids, table, offsets, mode="sum", include_last_offset=True)
    return summed * _scale(offsets)


def _scale(offsets: Tensor) -> Tensor:
    return torch.diff(offsets).clamp(min=1).rsqrt()[:, None]


def _hash(numbers: Tensor, rows: int, which: int) -> Tensor:
    mixed = (numbers * _MULTIPLIERS[which]) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> _SHIFTS[which])) * _MULTIPLIERS[1 - which]) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 16)) % rows
