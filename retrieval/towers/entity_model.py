"""The pin and product tower as a network: hashed n-grams and given vectors of an entity into one unit vector.

Each text feature is embedded in three ways (words, bigrams, trigrams) by hash embeddings that all features share; the
bags and a mark of what is present go through a two-layer perceptron, and every input also has a linear way round it, so
that a given vector that is good already needs no learning to be used. Knows nothing about tables or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import InvalidParams
from retrieval.params import MAX_DIM, MIN_DIM
from retrieval.towers.features import Features
from retrieval.towers.hash_embedding import HashEmbedding, folded_bags
from retrieval.towers.tokenise import Tokenisation
from retrieval.types import F32, Bool


class EntityModelSettings(BaseModel):
    """Sizes of the network, and which ways of cutting it uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokenisations: tuple[Tokenisation, ...] = Field(default=tuple(Tokenisation), min_length=1)
    vocabulary_size: int = Field(default=50_000, ge=1, le=2_000_000, description="kept tokens of each way of cutting")
    vocabulary_min_count: int = Field(default=2, ge=1, description="rarer tokens share the out-of-vocabulary ids")
    oov_ids: int = Field(default=8_192, ge=1, le=1_000_000, description="ids that the other tokens are hashed to")
    table_rows: int = Field(default=32_768, ge=1, le=16_777_216, description="component vectors of each hash embedding")
    token_dim: int = Field(default=64, ge=1, le=2_048, description="dimensions of a token")
    hidden: int = Field(default=512, ge=1, le=16_384, description="width of the perceptron")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share of the perceptron's inputs dropped in training")


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """`Features` as tensors. tokens: (ids int64 [t], offsets int64 [n * texts + 1]); present: float32 [n, features]."""

    tokens: dict[Tokenisation, tuple[Tensor, Tensor]]
    vectors: dict[str, Tensor]
    present: Tensor

    @classmethod
    def of(cls, features: Features, *, device: torch.device | None = None, keep: Bool | None = None) -> FeatureBatch:
        """Copy features to `device`; keep: bool [n, features], False makes a feature absent that is there."""
        present = features.present if keep is None else features.present & keep
        return cls(
            tokens={
                cut: (
                    torch.from_numpy(ragged.values.astype(np.int64)).to(device),
                    torch.from_numpy(ragged.offsets).to(device),
                )
                for cut, ragged in features.tokens.items()
            },
            vectors={
                name: torch.from_numpy(values.astype(np.float32)).to(device)
                for name, values in features.vectors.items()
            },
            present=torch.from_numpy(present.astype(np.float32)).to(device),
        )


class EntityModel(nn.Module):
    """FeatureBatch of n entities -> unit vectors float32 [n, d]."""

    def __init__(
        self,
        settings: EntityModelSettings,
        *,
        d: int,
        texts: int,
        vectors: Mapping[str, int],
        ids: Mapping[Tokenisation, int],
    ) -> None:
        """texts: number of text features; vectors: dimensions by name; ids: vocabulary ids of each cutting."""
        super().__init__()
        if not MIN_DIM <= d <= MAX_DIM:
            raise InvalidParams(f"d = {d} is not acceptable: a space has {MIN_DIM} to {MAX_DIM} dimensions")
        self.texts, self.vector_names = texts, tuple(vectors)
        self.hashes = nn.ModuleDict(
            {
                str(cut): HashEmbedding(ids=ids[cut], rows=settings.table_rows, dim=settings.token_dim)
                for cut in settings.tokenisations
            }
        )
        bag_width = texts * len(self.hashes) * settings.token_dim
        inputs = bag_width + sum(vectors.values()) + texts + len(vectors)
        self.drop = nn.Dropout(settings.dropout)
        self.inner = nn.Linear(inputs, settings.hidden)
        self.outer = nn.Linear(settings.hidden, d)
        self.around = nn.Linear(bag_width, d, bias=False)
        self.given = nn.ModuleDict({name: nn.Linear(width, d, bias=False) for name, width in vectors.items()})
        if vectors:  # what is learned from scratch starts small beside what is given
            with torch.no_grad():
                self.outer.weight.mul_(0.1)
                self.around.weight.mul_(0.1)
        self._folded: dict[str, Tensor] = {}

    def start_from(self, name: str, projection: F32) -> None:
        """Let the linear way of vector feature `name` begin as projection float32 [d, width]."""
        weight = self.given[name].weight
        if not isinstance(weight, Tensor) or tuple(weight.shape) != projection.shape:
            raise InvalidParams(f"a projection {list(projection.shape)} does not fit vector feature {name!r}")
        with torch.no_grad():
            weight.copy_(torch.from_numpy(projection))

    def fold(self) -> EntityModel:
        """Prepare for serving: evaluation mode, each hash embedding one table. Returns itself."""
        self.eval().requires_grad_(False)
        self._folded = {
            name: module.folded() for name, module in self.hashes.items() if isinstance(module, HashEmbedding)
        }
        return self

    def forward(self, batch: FeatureBatch) -> Tensor:
        """Unit vectors float32 [n, d]; an entity without any feature present gives an arbitrary but constant one."""
        n = len(batch.present)
        there = batch.present[:, : self.texts, None]
        bags = []
        for name, module in self.hashes.items():
            ids, offsets = batch.tokens[Tokenisation(name)]
            bag = folded_bags(self._folded[name], ids, offsets) if self._folded else module(ids, offsets)
            bags.append((bag.view(n, self.texts, -1) * there).flatten(1))
        hashed = self.drop(torch.cat(bags, dim=1))
        given = {
            name: batch.vectors[name] * batch.present[:, self.texts + place, None]
            for place, name in enumerate(self.vector_names)
        }
        inputs = torch.cat([hashed, *(self.drop(values) for values in given.values()), batch.present], dim=1)
        out = self.outer(functional.gelu(self.inner(inputs))) + self.around(hashed)
        for name, values in given.items():
            out = out + self.given[name](values)
        return functional.normalize(out.float(), dim=1)
