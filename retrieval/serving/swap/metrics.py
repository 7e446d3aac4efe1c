"""Metrics of a server that follows its store: swaps, rollbacks, quarantine, canaries. Knows nothing of how it swaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from retrieval.serving.calls import FollowState
from retrieval.serving.operate.metrics import Provider, Reading


def follows(states: Callable[[], tuple[FollowState, ...]]) -> Provider:
    """How each entity type follows the store."""

    def read() -> Iterator[Reading]:
        for each in states():
            labels = {"entity_type": each.entity_type}
            behind = bool(each.published) and each.published != each.generation
            gauges = (
                ("behind", "1 while CURRENT names another generation than the one that is served", behind),
                ("trouble", "1 while the store cannot be read", bool(each.trouble)),
            )
            for name, told, value in gauges:
                yield Reading(name=f"retrieval_follow_{name}", help=told, value=float(value), labels=labels)
            counters = (
                ("swaps", "Generations put in place of another while serving", each.swaps),
                ("rollbacks", "Swaps that the server undid by itself because canaries drifted", each.rollbacks),
            )
            for name, told, count in counters:
                yield Reading(
                    name=f"retrieval_{name}_total", help=told, value=float(count), kind="counter", labels=labels
                )
            yield Reading(
                name="retrieval_canary_alarm",
                help="1 while the last replay of the canaries found a fault in what is served",
                value=float(bool(each.alarm)),
                labels=labels,
            )
            if each.canary_recall is not None:
                yield Reading(
                    name="retrieval_canary_recall",
                    help="Share of the canaries' stored answers that the last replay brought back",
                    value=each.canary_recall,
                    labels=labels,
                )
            for named in each.quarantined:
                yield Reading(
                    name="retrieval_quarantined_info",
                    help="1 for a generation that is not taken up; Describe and the log have the reason",
                    value=1.0,
                    labels={**labels, "generation": named.partition(":")[0]},
                )

    return read
