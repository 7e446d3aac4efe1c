"""What a server knows of one entity type that it follows, and how it tells of it. Knows nothing about swaps."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.serving.calls import FollowState
from retrieval.serving.swap.canary_watch import CanaryWatch
from retrieval.serving.swap.held import Held


@dataclass(kw_only=True)
class TypeState:
    """Written by the thread that follows, read by any. watched_until: when an alarm no longer means to go back.

    before: the generation that the last swap replaced.
    """

    published: str = ""
    trouble: str = ""
    canaries: CanaryWatch | None = None
    recall: float | None = None
    alarm: str = ""
    watched_until: float = 0.0
    before: str | None = None
    swaps: int = 0
    rollbacks: int = 0

    def tell(self, entity_type: str, held: Held, quarantined: tuple[str, ...]) -> FollowState:
        """The state as `Describe` and the metrics have it."""
        served, previous = held.current.get(entity_type), held.previous(entity_type)
        return FollowState(
            entity_type=entity_type,
            generation="" if served is None else served.about.manifest.id,
            published=self.published,
            previous="" if previous is None else previous.about.manifest.id,
            quarantined=quarantined,
            canary_recall=self.recall,
            alarm=self.alarm,
            trouble=self.trouble,
            swaps=self.swaps,
            rollbacks=self.rollbacks,
        )
