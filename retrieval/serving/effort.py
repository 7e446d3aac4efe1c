"""Effort: what a call asks for, filled up with the generation's defaults, and what the build measured for it.

A recall is only ever stated for exactly the effort that was measured; there is no interpolation here. Knows nothing
about shards or queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from retrieval.params import FlatSearch, HnswSearch, IvfpqSearch, SearchParams, make_params
from retrieval.serving.calls import Effort
from retrieval.store import Manifest
from retrieval.types import IndexKind

_REMEMBERED = 1_024  # efforts kept per generation
_MEASURED_K = 100  # the frontier is measured by searches for the 100 best

_TYPES: dict[IndexKind, type[FlatSearch] | type[IvfpqSearch] | type[HnswSearch]] = {
    IndexKind.FLAT: FlatSearch,
    IndexKind.IVFPQ: IvfpqSearch,
    IndexKind.HNSW: HnswSearch,
}


def check_effort(effort: Effort) -> None:
    """InvalidParams for a parameter outside its limits, whether or not an index of its kind is served."""
    if effort.ef is not None:
        make_params(HnswSearch, {"ef": effort.ef})
    wanted = {"nprobe": effort.nprobe, "rescore": effort.rescore}
    make_params(IvfpqSearch, {name: value for name, value in wanted.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What one call will spend: parameters per index kind, the same as an effort, and the recall measured for it."""

    params: dict[IndexKind, SearchParams]
    used: Effort
    recall_at_10: float | None
    recall_at_100: float | None


class Efforts:
    """The efforts of one generation; remembers what it resolved, because callers ask for few."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._kinds = {shard.kind for shard in manifest.shards}
        self.choose = lru_cache(maxsize=_REMEMBERED)(self._choose)

    def _choose(self, effort: Effort, k: int) -> Chosen:
        """The search parameters of a call for k: those asked for, else the generation's defaults.

        Raises InvalidParams for one outside its limits.
        """
        params = {kind: self._resolve(kind, effort) for kind in self._kinds}
        recall = self._measured(params, k) or (None, None)
        return Chosen(params=params, used=_used(params.values(), k), recall_at_10=recall[0], recall_at_100=recall[1])

    def _resolve(self, kind: IndexKind, effort: Effort) -> SearchParams:
        cls = _TYPES[kind]
        values = dict(self._manifest.default_search.get(kind, {}))
        values.update({name: value for name in cls.model_fields if (value := getattr(effort, name, None)) is not None})
        return make_params(cls, values)

    def _measured(self, params: dict[IndexKind, SearchParams], k: int) -> tuple[float, float] | None:
        if len(params) != 1:
            return None  # a frontier point describes one kind
        ((kind, chosen),) = params.items()
        cls, spent = _TYPES[kind], _spent(chosen, k)
        for point in self._manifest.frontier:
            if set(point.params) <= set(cls.model_fields) and _spent(cls(**point.params), _MEASURED_K) == spent:
                return point.recall_at_10, point.recall_at_100
        return None


def _used(params: Iterable[SearchParams], k: int) -> Effort:
    # a candidate pool is never smaller than k
    values: dict[str, int] = {}
    for each in params:
        if isinstance(each, HnswSearch):
            values["ef"] = max(each.ef, k)
        elif isinstance(each, IvfpqSearch):
            values["nprobe"], values["rescore"] = each.nprobe, max(each.rescore, k)
    return Effort(**values)


def _spent(params: SearchParams, k: int) -> dict[str, int]:
    values: dict[str, int] = params.model_dump()
    for pool in ("ef", "rescore"):
        if pool in values:
            values[pool] = max(values[pool], k)
    return values
