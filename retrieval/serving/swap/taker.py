"""Taking up a generation beside calls at work: fetched, verified, probed in a child, opened shard by shard, replayed.

Nothing that calls use is touched before the last step has passed. Index files are mapped, so that opening costs the
pages that are read and not the files' size. Knows nothing about when, or what becomes of a generation that fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retrieval.canaries import read_canaries
from retrieval.errors import DamagedData, NoGeneration, SpaceMismatch, StoreError
from retrieval.serving.config import ServingSettings
from retrieval.serving.rankings import Served
from retrieval.serving.swap.canary_watch import CanaryWatch
from retrieval.serving.swap.load import open_gently
from retrieval.serving.swap.origin import Origin
from retrieval.serving.swap.ready import ReadyProber
from retrieval.serving.text.encode import TextTower
from retrieval.store import Generation, Manifest


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A generation ready to serve, its canaries, and the share of their answers that came back here."""

    served: Served
    canaries: CanaryWatch
    recall: float


class Taker:
    """How one server takes up generations.

    prober: what opens a generation before this process does; wait: called before each shard and each canary, returns
    when they disturb nobody.
    """

    def __init__(
        self,
        origin: Origin,
        settings: ServingSettings,
        tower: TextTower | None,
        prober: ReadyProber,
        wait: Callable[[], None],
    ) -> None:
        self._origin, self._settings, self._tower, self._prober, self._wait = origin, settings, tower, prober, wait

    def take_up(self, entity_type: str, generation: str, before: Manifest | None) -> Taken:
        """Load a generation that is in the local store. before: what is served now, None for a new entity type.

        Raises DamagedData (checksums, child, canaries), SpaceMismatch and what else opening raises.
        """
        manifest = self._origin.store.manifest(entity_type, generation)
        check_space(manifest, before, self._tower)
        opened = open_gently(self._origin.store, entity_type, manifest, self._settings, self._prober, self._wait)
        return self.replay(opened)

    def replay(self, served: Served) -> Taken:
        """What is loaded already, held against its canaries; DamagedData when they find a fault."""
        canaries = self.watch(served)
        recall, fault = canaries.replay(self._wait, self._settings.follow.canary_drift)
        if fault:
            raise DamagedData(
                f"generation {served.about.manifest.id} fails its canaries: {fault}; roll back or rebuild"
            )
        return Taken(served=served, canaries=canaries, recall=recall)

    def watch(self, served: Served) -> CanaryWatch:
        """The canaries of what is served, not yet replayed; DamagedData when they cannot be read."""
        manifest = served.about.manifest
        try:
            path = self._origin.store.generation_path(manifest.entity_type, manifest.id)
        except (NoGeneration, StoreError):  # removed from the store while it serves, which is no fault of it
            return CanaryWatch(served, None)
        return CanaryWatch(served, read_canaries(Generation(path=path, manifest=manifest)), self._tower)


def check_space(manifest: Manifest, before: Manifest | None, tower: TextTower | None) -> None:
    """SpaceMismatch when text queries could search what is served, and could not search this."""
    if tower is None or manifest.space_id in {tower.space_id, *tower.compatible}:
        return
    if before is not None and before.space_id == manifest.space_id:
        return  # they could not search the one before either
    raise SpaceMismatch(
        f"generation {manifest.id} is of space {manifest.space_id}, the checkpoint's space is {tower.space_id}: start "
        "servers with the checkpoint it was embedded with, or publish one of that space"
    )
