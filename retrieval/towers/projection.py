"""From the encoder's width to the width of the space: one linear map, fitted by PCA until training learns a better one.

PCA without centring (the leading right singular vectors of the unit pooled states): scores are inner products, and the
mean that centring would remove does no harm here (nDCG@10 on the judged product queries, before any projection: 0.604
without centring, 0.596 with, a difference well inside the interval of so few queries).
Knows numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from retrieval.errors import DamagedData, InvalidParams
from retrieval.topk import check_vectors, normalise
from retrieval.types import F32


@dataclass(frozen=True)
class Projection:
    """weight: float32 [d, hidden]."""

    weight: F32

    @classmethod
    def from_bytes(cls, data: bytes) -> Projection:
        """The projection that `to_bytes` wrote; DamagedData when it is none."""
        try:
            weight = safetensors.numpy.load(data)["weight"]
        except (SafetensorError, KeyError) as error:
            raise DamagedData(f"the projection of this checkpoint cannot be read: {error}") from error
        if weight.ndim != 2 or weight.dtype != np.float32:
            raise DamagedData(f"the projection is {weight.dtype} {list(weight.shape)}, not float32 [d, hidden]")
        return cls(weight)

    def to_bytes(self) -> bytes:
        """The weight as safetensors."""
        return bytes(safetensors.numpy.save({"weight": np.ascontiguousarray(self.weight)}))

    @property
    def d(self) -> int:
        """Dimensions of the space."""
        return int(self.weight.shape[0])

    @property
    def hidden(self) -> int:
        """Width of the encoder that it fits."""
        return int(self.weight.shape[1])

    def apply(self, pooled: F32) -> F32:
        """Unit vectors float32 [n, d] of pooled states float32 [n, hidden]; DamagedData if one has no direction."""
        vectors = np.asarray(pooled @ self.weight.T, dtype=np.float32)
        usable = check_vectors(vectors)
        if not usable.all():
            raise DamagedData(
                f"the tower gave a zero or non-finite vector for {int((~usable).sum())} of {len(usable)} texts: its "
                "weights are not usable, train or fit it again"
            )
        return normalise(vectors)


def fit_projection(pooled: F32, d: int) -> Projection:
    """The projection to d dimensions that keeps most of pooled states float32 [n, hidden] taken at unit length.

    InvalidParams unless 2 <= d <= hidden and n >= d. The sign of each direction is fixed, so that equal input gives
    equal bytes.
    """
    n, hidden = pooled.shape
    if not 2 <= d <= hidden:
        raise InvalidParams(
            f"d = {d} is not acceptable: an encoder of width {hidden} projects to 2 to {hidden} dimensions"
        )
    if n < d:
        raise InvalidParams(f"{n} texts are too few to fit {d} dimensions: give at least {d}")
    unit = normalise(pooled).astype(np.float64)
    _, directions = np.linalg.eigh(unit.T @ unit)  # ascending eigenvalues, so the last d columns, turned round
    weight = directions[:, ::-1][:, :d].T
    largest = np.abs(weight).argmax(axis=1)
    weight = weight * np.sign(weight[np.arange(d), largest])[:, None]
    return Projection(np.ascontiguousarray(weight, dtype=np.float32))
