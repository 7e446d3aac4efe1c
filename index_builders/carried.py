"""Figures that a rebuild need not measure again: most shards are those that its parent was measured with.

A full measurement leaves in the report of every shard which input it saw and under which settings; a generation that
carries figures over hands that on, so that many small changes add up and are measured again in time. Carried are the
figures under filters, the scan crossover, and the efforts that did not decide on the default. Knows nothing about how
figures are measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from index_builders.job import Job
from index_builders.plan import Plan
from index_builders.verify import Measured
from retrieval.errors import RetrievalError
from retrieval.params import SEARCH_PARAMS, SearchParams, make_params
from retrieval.store import Manifest, Store
from retrieval.store.manifest import FrontierPoint

_MEASURED = "measured"
MARGIN = 0.01  # of recall above what is wanted, that changed shards alone may speak for the whole


@dataclass(frozen=True, kw_only=True)
class Carried:
    """manifest: of the parent; origin: the generation that was measured; share: of the rows, in shards unchanged since.

    reports: what every shard of the new generation keeps of that measurement; changed: numbers of the shards that are
    not as they were then.
    """

    manifest: Manifest
    origin: str
    share: float
    reports: list[dict[str, Any]]
    changed: list[int]

    def changed_suffice(self, ladder: Sequence[SearchParams], target_recall: float) -> bool:
        """Whether the changed shards need to be measured only: the default was the cheapest effort and good by far.

        Then a full measurement would come to another default only if recall fell below what is wanted, which a
        twentieth or so of the rows cannot bring about while their own recall is as far above it.
        """
        found = self._default_point()
        cheapest = ladder[0].model_dump(mode="json") == self.manifest.default_search[self.manifest.shards[0].kind]
        return cheapest and found is not None and found.recall_at_100 >= target_recall + MARGIN

    def as_measured(self) -> Measured:
        """The parent's default effort with what was measured of it."""
        kind = self.manifest.shards[0].kind
        point = self._default_point()
        assert point is not None
        default = make_params(SEARCH_PARAMS[kind], self.manifest.default_search[kind])
        return Measured(frontier=[point], default=default, chosen=point)

    def _default_point(self) -> FrontierPoint | None:
        default = self.manifest.default_search[self.manifest.shards[0].kind]
        # real queries, which decide where there are any, stand first
        return next((p for p in self.manifest.frontier if p.params == default and p.filter_band is None), None)

    def ladder(self, ladder: Sequence[SearchParams]) -> list[SearchParams]:
        """The default effort of the parent and the next cheaper one: by these the new default is what it would be.

        Recall grows with the effort, so an effort that reaches the wanted recall beside one that does not is the
        cheapest that does.
        """
        default = self.manifest.default_search[self.manifest.shards[0].kind]
        at = next((i for i, params in enumerate(ladder) if params.model_dump(mode="json") == default), None)
        return list(ladder) if at is None else list(ladder[max(0, at - 1) : at + 1])

    def holds(self, default: SearchParams, points: Sequence[FrontierPoint], target_recall: float) -> bool:
        """Whether `points` say that the parent's default is still the cheapest effort that is good enough."""
        if default.model_dump(mode="json") != self.manifest.default_search[self.manifest.shards[0].kind]:
            return False
        return any(
            point.recall_at_100 >= target_recall for point in points if point.params == default.model_dump(mode="json")
        )

    def frontier(self, points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
        """The parent's points with those of `points` in their place; recall@1000 stays the parent's."""
        new = {_key(point): point for point in points}
        merged = []
        for old in self.manifest.frontier:
            point = new.get(_key(old))
            merged.append(old if point is None else point.model_copy(update={"recall_at_1000": old.recall_at_1000}))
        return merged

    def sentence(self, points: Sequence[FrontierPoint]) -> str:
        """For the manifest: which figures are new, and whose the others are."""
        if not points:
            names = ", ".join(self.manifest.shards[shard].name for shard in self.changed) or "no shard"
            return (
                f"all figures are those measured in {self.origin}: {self.share:.1%} of the rows lie in shards "
                f"unchanged since; recall at the default effort was measured again in {names}, and by the gate in all"
            )
        efforts = len({json.dumps(point.params, sort_keys=True) for point in points})
        return (
            f"{efforts} efforts were measured anew; all other figures, recall@1000, those under filters and the scan "
            f"crossover are those measured in {self.origin}: {self.share:.1%} of the rows lie in shards unchanged since"
        )


def carried(store: Store, plan: Plan, job: Job | None, inputs: Sequence[str], rows: Sequence[int]) -> Carried | None:
    """What can be carried over from the job's parent; None when there is no such, or it was measured otherwise.

    inputs: the digest of each shard's input; rows: of each shard.
    """
    if job is None or job.parent is None:
        return None
    try:
        parent = store.manifest(plan.entity_type, job.parent)
    except RetrievalError:
        return None
    kept = [shard.report.get(_MEASURED) for shard in parent.shards]
    if len(kept) != plan.shards or plan.kind not in parent.default_search or not parent.frontier:
        return None
    if not all(isinstance(each, dict) and each.get("settings") == _settings(plan) for each in kept):
        return None
    reports = [{**each, "generation": each["generation"] or parent.id} for each in kept if each]
    same = sum(n for n, each, now in zip(rows, reports, inputs, strict=True) if each["input_sha256"] == now)
    share = same / sum(rows)
    if share < job.carry_above:
        return None
    changed = [i for i, (each, now) in enumerate(zip(reports, inputs, strict=True)) if each["input_sha256"] != now]
    return Carried(manifest=parent, origin=reports[0]["generation"], share=share, reports=reports, changed=changed)


def measured_reports(
    reports: Sequence[dict[str, Any]], inputs: Sequence[str], plan: Plan, found: list[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The reports of the shards, each with the measurement it stands in: `found` where figures were carried over.

    The generation is "" for the one that the report itself is of.
    """
    fresh = [{"generation": "", "input_sha256": each, "settings": _settings(plan)} for each in inputs]
    return [{**report, _MEASURED: each} for report, each in zip(reports, found or fresh, strict=True)]


def _settings(plan: Plan) -> str:
    """Digest of what decides on the figures beside the shards themselves."""
    said = [
        plan.space_id,
        str(plan.kind),
        plan.params,
        str(plan.metric),
        plan.seed,
        plan.target_recall,
        plan.verify_queries,
        plan.queries_sha256,
        plan.library_versions,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _key(point: FrontierPoint) -> tuple[str, str, float | None]:
    return json.dumps(point.params, sort_keys=True), point.query_kind, point.filter_band
