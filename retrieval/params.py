"""Build parameters and search parameters, one pair of types per index kind, limits beside each default.

Build parameters are fixed in a generation's manifest; search parameters ("effort") travel with each call. Knows
nothing about the libraries that use them.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams
from retrieval.types import IndexKind, VectorDtype

MAX_K = 10_000  # neighbours one call may ask for
MAX_DIM = 2_048
MIN_DIM = 2


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FlatBuild(_Params):
    """Exact index: nothing to tune but the stored type."""

    vectors: VectorDtype = Field(default=VectorDtype.FLOAT16, description="type of the stored vectors")


class IvfpqBuild(_Params):
    """Inverted lists of product-quantised codes (faiss)."""

    vectors: VectorDtype = Field(
        default=VectorDtype.FLOAT16, description="type of the vectors kept for exact rescoring"
    )
    nlist: int = Field(default=0, ge=0, le=1_048_576, description="inverted lists; 0 chooses from the row count")
    pq_dims: int = Field(
        default=0, ge=0, le=32, description="dimensions per code; 0 chooses 2, or 1 or 3 where 2 does not divide"
    )
    pq_bits: int = Field(default=4, ge=4, le=8, description="bits per code: 4 (fast-scan) or 8")
    train_rows: int = Field(default=262_144, ge=256, le=16_777_216, description="cap of the training sample")


class HnswBuild(_Params):
    """Graph of Malkov and Yashunin (2016), built by hnswlib."""

    vectors: VectorDtype = Field(
        default=VectorDtype.FLOAT16, description="type of the vectors kept for exact rescoring"
    )
    m: int = Field(default=24, ge=4, le=128, description="links per row above the base layer; twice as many on it")
    ef_construction: int = Field(default=200, ge=8, le=4_000, description="candidate pool while building")


class FlatSearch(_Params):
    """Effort of an exact search: there is none to choose."""


class IvfpqSearch(_Params):
    """Effort of an IVF-PQ search."""

    nprobe: int = Field(default=64, ge=1, le=1_048_576, description="inverted lists visited")
    rescore: int = Field(default=400, ge=1, le=200_000, description="candidates rescored exactly (at least k are)")


class HnswSearch(_Params):
    """Effort of a graph search."""

    ef: int = Field(default=200, ge=1, le=20_000, description="candidate pool (at least k)")
    max_distances: int = Field(default=0, ge=0, le=2**31 - 1, description="stop after so many distances; 0 never")


BuildParams: TypeAlias = FlatBuild | IvfpqBuild | HnswBuild
SearchParams: TypeAlias = FlatSearch | IvfpqSearch | HnswSearch

BUILD_PARAMS: dict[IndexKind, type[FlatBuild] | type[IvfpqBuild] | type[HnswBuild]] = {
    IndexKind.FLAT: FlatBuild,
    IndexKind.IVFPQ: IvfpqBuild,
    IndexKind.HNSW: HnswBuild,
}
SEARCH_PARAMS: dict[IndexKind, type[FlatSearch] | type[IvfpqSearch] | type[HnswSearch]] = {
    IndexKind.FLAT: FlatSearch,
    IndexKind.IVFPQ: IvfpqSearch,
    IndexKind.HNSW: HnswSearch,
}


def widened(params: SearchParams, by: float) -> SearchParams:
    """The effort of a search for `by` times as many neighbours: its candidate pool grows in proportion."""
    if isinstance(params, HnswSearch):
        return params.model_copy(update={"ef": min(math.ceil(params.ef * by), 20_000)})
    if isinstance(params, IvfpqSearch):
        return params.model_copy(update={"rescore": min(math.ceil(params.rescore * by), 200_000)})
    return params


_NAMES = {
    "FlatBuild": "a flat build",
    "IvfpqBuild": "an ivfpq build",
    "HnswBuild": "an hnsw build",
    "FlatSearch": "a flat search",
    "IvfpqSearch": "an ivfpq search",
    "HnswSearch": "an hnsw search",
}

_P = TypeVar("_P", bound=_Params)


def make_params(cls: type[_P], values: dict[str, Any]) -> _P:
    """Construct `cls` from `values`; InvalidParams names the first bad field, its value and its limits."""
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise InvalidParams(
                f"{_NAMES[cls.__name__]} has no parameter {name!r}; it takes {', '.join(cls.model_fields) or 'none'}"
            ) from None
        raise InvalidParams(f"{name} = {first['input']!r} is not acceptable: {first['msg'].lower()}") from None
