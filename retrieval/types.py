"""Words every room shares: metrics, index kinds, id types and the shape of an answer.

Knows numpy only. Scores are always "higher is better": cosine and inner product as they are, L2 as the negative
squared distance.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:  # Python 3.10 lacks StrEnum; str() of a member must give its value there too
    from enum import Enum

    class StrEnum(str, Enum):
        """String enumeration whose members print as their values."""

        __str__ = str.__str__


F32: TypeAlias = npt.NDArray[np.float32]
F16: TypeAlias = npt.NDArray[np.float16]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
U8: TypeAlias = npt.NDArray[np.uint8]
U32: TypeAlias = npt.NDArray[np.uint32]
Bool: TypeAlias = npt.NDArray[np.bool_]
AnyArray: TypeAlias = npt.NDArray[Any]

FLOAT16_MAX = float(np.finfo(np.float16).max)
NO_ROW = -1  # fills the unused tail of a padded answer; its score is -inf


class Metric(StrEnum):
    """How a query and a vector are compared; every score is higher-is-better."""

    COSINE = "cosine"  # inner product of unit vectors
    INNER_PRODUCT = "ip"
    L2 = "l2"  # score = -(squared Euclidean distance)


class IndexKind(StrEnum):
    """The index kinds that a shard can have."""

    FLAT = "flat"
    IVFPQ = "ivfpq"
    HNSW = "hnsw"


class IdType(StrEnum):
    """Type of the entity ids of one generation."""

    STRING = "string"
    INT64 = "int64"


class VectorDtype(StrEnum):
    """Type in which a shard keeps its vectors for exact scores."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """Padded answer of one index for a batch of queries, in the tie order (score descending, row ascending).

    rows: int32 [q, k], NO_ROW where fewer than k rows qualified; scores: float32 [q, k], -inf there.
    work: named counters summed over the batch (for example "distances"), to tell what the search did.
    """

    rows: I32
    scores: F32
    work: dict[str, int] = field(default_factory=dict)
