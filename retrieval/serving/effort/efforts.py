"""Effort: what a call asks for, filled up with the generation's defaults, and what the build measured for it.

A recall is only ever stated for exactly the effort that was measured; there is no interpolation here. Knows nothing
about shards or queries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from retrieval.params import FlatSearch, HnswSearch, IvfpqSearch, SearchParams, make_params
from retrieval.serving.calls import Effort
from retrieval.serving.effort.frontier import MEASURED_K, Frontier, preferred
from retrieval.serving.effort.promise import RECALL, lowered, pick
from retrieval.store import Manifest
from retrieval.types import IndexKind

_REMEMBERED = 1_024  # efforts kept per generation

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
    """What one call will spend: parameters per index kind, the same as an effort, and the recall measured for it.

    recall_at_10, recall_at_100: without a filter; expected_recall: of the best k in the call's filter band. gave_way,
    reasons: which bound could not be kept, and why the effort is not what was asked for.
    """

    params: dict[IndexKind, SearchParams]
    used: Effort
    recall_at_10: float | None
    recall_at_100: float | None
    expected_recall: float | None = None
    gave_way: str = ""
    reasons: tuple[str, ...] = ()


class Efforts:
    """The efforts of one generation; remembers what it resolved, because callers ask for few."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._kinds = {shard.kind for shard in manifest.shards}
        self.frontier = Frontier(manifest)
        self._points = lru_cache(maxsize=_REMEMBERED)(self.frontier.points)
        self.choose = lru_cache(maxsize=_REMEMBERED)(self._choose)

    def _choose(self, effort: Effort, k: int) -> Chosen:
        """The search parameters of a call for k: those asked for, else the generation's defaults.

        Raises InvalidParams for one outside its limits.
        """
        params = {kind: self._resolve(kind, effort) for kind in self._kinds}
        recall = self._measured(params, k) or (None, None)
        expected = recall[0] if k <= 10 else recall[1] if k <= MEASURED_K else self._deep(params, k)
        used = _used(params.values(), k)
        return Chosen(
            params=params, used=used, recall_at_10=recall[0], recall_at_100=recall[1], expected_recall=expected
        )

    def in_band(self, chosen: Chosen, k: int, share: float) -> Chosen:
        """The same effort with the recall it stands for where a filter allows this share of the rows."""
        expected = None
        if self.frontier.has_bands() and k <= MEASURED_K and len(chosen.params) == 1:
            ((_, params),) = chosen.params.items()
            spent = _spent(params, k)
            same = (each for each in self._points(share) if _spent(each.params, MEASURED_K) == spent)
            expected = next((each.recall(k) for each in same), None)
        return replace(chosen, expected_recall=expected)

    def keep(self, min_recall: float, k: int, *, share: float | None, time_ms: float | None) -> Chosen:
        """The cheapest effort measured to reach `min_recall` in `time_ms`; see `promise.pick`.

        share: of the rows that the call's filter allows, None without one. Where nothing was measured the default
        effort, which gives way unless the index is exact by construction.
        """
        banded = share is not None and self.frontier.has_bands()
        picked = pick(self._points(share if banded else None), min_recall, k, time_ms=time_ms)
        if picked is None or self.frontier.kind is None:
            chosen = self.choose(Effort(), k)
            if self._kinds == {IndexKind.FLAT}:
                return replace(chosen, expected_recall=1.0)  # exact search is what recall is counted against
            reason = f"recall {min_recall:.4g} was asked for, but nothing was measured for this generation"
            return replace(chosen, expected_recall=None, gave_way=RECALL, reasons=(reason,))
        reasons = picked.reasons
        if share is not None and not banded:
            reasons = (*reasons, "no effort was measured under a filter: the recall stated is that without one")
        chosen = self._spending(picked.params, k)
        return replace(chosen, expected_recall=picked.recall, gave_way=picked.gave_way, reasons=reasons)

    def lower(
        self,
        chosen: Chosen,
        k: int,
        *,
        step: str,
        floor: float,
        rescore_only: bool,
        share: float | None = None,
        min_recall: float | None = None,
    ) -> Chosen:
        """The effort of a step of the brown-out ladder, whose price is a measured recall; unchanged where none is.

        floor: recall that the step does not go below. The reason names the step and both recalls.
        """
        if len(chosen.params) != 1:
            return chosen
        ((_, params),) = chosen.params.items()
        points = self._points(share if self.frontier.has_bands() else None)
        point = lowered(points, params, k, floor=floor, rescore_only=rescore_only)
        if point is None:
            return chosen
        found = self._spending(point.for_k(k).params, k)
        recall, before = point.recall(k), chosen.expected_recall
        named = "not measured for this k" if recall is None else f"{recall:.4f}"
        instead = "" if before is None else f" instead of {before:.4f}"
        reason = f"brown-out step {step!r}: expected recall is {named}{instead}"
        below = min_recall is not None and (recall is None or recall < min_recall)
        return replace(
            found,
            expected_recall=recall,
            gave_way=chosen.gave_way or (RECALL if below else ""),
            reasons=(*chosen.reasons, reason),
        )

    def _spending(self, params: SearchParams, k: int) -> Chosen:
        """An effort of the frontier, whatever the callers may ask for."""
        return self.choose(_used([params], k), k)

    def _resolve(self, kind: IndexKind, effort: Effort) -> SearchParams:
        cls = _TYPES[kind]
        values = dict(self._manifest.default_search.get(kind, {}))
        values.update({name: value for name in cls.model_fields if (value := getattr(effort, name, None)) is not None})
        return make_params(cls, values)

    def _deep(self, params: dict[IndexKind, SearchParams], k: int) -> float | None:
        """Recall of the best k beyond MEASURED_K, where an effort was measured that spends as much on so many."""
        if len(params) != 1:
            return None
        ((_, chosen),) = params.items()
        same = (point for point in self._points(None) if _spent(point.for_k(k).params, k) == _spent(chosen, k))
        return next((point.recall(k) for point in same), None)

    def _measured(self, params: dict[IndexKind, SearchParams], k: int) -> tuple[float, float] | None:
        if len(params) != 1:
            return None  # a frontier point describes one kind
        ((kind, chosen),) = params.items()
        cls, spent = _TYPES[kind], _spent(chosen, k)
        for point in preferred(self._manifest.frontier):
            if point.filter_band is not None:
                continue
            if set(point.params) <= set(cls.model_fields) and _spent(cls(**point.params), MEASURED_K) == spent:
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
