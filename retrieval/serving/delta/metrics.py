"""Metrics of fresh entities: how many there are, how many rows they hide, how far the log is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from retrieval.serving.calls import DeltaState
from retrieval.serving.operate.metrics import Provider, Reading


def deltas(states: Callable[[], tuple[DeltaState, ...]]) -> Provider:
    """How each entity type's delta is."""

    def read() -> Iterator[Reading]:
        for each in states():
            gauges = (
                ("rows", "Fresh entities that searches find beside the generation", each.rows),
                ("hidden_rows", "Rows of the generation that were written again or deleted", each.hidden),
                ("position", "Last write that searches see", each.position),
                ("unfolded", "Writes that the generation itself does not have", each.position - each.folded),
                ("oldest_seconds", "Age of the oldest of those writes, 0 without any", each.oldest_age_s),
                ("trouble", "1 while the log of writes cannot be read on", bool(each.trouble)),
            )
            for name, told, value in gauges:
                labels = {"entity_type": each.entity_type}
                yield Reading(name=f"retrieval_delta_{name}", help=told, value=float(value), labels=labels)

    return read
