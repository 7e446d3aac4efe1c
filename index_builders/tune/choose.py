"""Which candidate to build: the best of those that keep every bound, and for each of the others why not.

Of those that keep all bounds the quickest to answer is taken where bytes are bounded or nothing is, and of those about
as quick the one of the fewest bytes; where only latency is bounded the fewest bytes decide, since speed beyond the
bound was not asked for. Pure functions over figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from index_builders.tune.bounds import Bounds
from index_builders.tune.candidates import Candidate

ABOUT = 1.15  # latencies within this factor of the least count as equal: their measurements differ by as much


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A candidate at one effort and what it is expected to be worth at the size of a shard.

    p95_ms: one thread over all shards, one after another; search: the effort; params: complete build parameters.
    """

    candidate: Candidate
    params: dict[str, Any]
    search: dict[str, Any]
    recall_at_100: float
    p95_ms: float
    bytes_per_row: float


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one candidate: its nearest effort (None when it was never built), chosen or why not."""

    candidate: Candidate
    nearest: Choice | None
    bytes_per_row: float
    chosen: bool
    reason: str


def judge(choices: Sequence[Choice], bounds: Bounds) -> Verdict:
    """The verdict on a candidate by its efforts, cheapest first: the first that keeps all bounds, else the nearest."""
    keeping = [choice for choice in choices if not broken(choice, bounds)]
    nearest = keeping[0] if keeping else min(choices, key=lambda choice: excess(choice, bounds))
    reason = "; ".join(broken(nearest, bounds))
    return Verdict(
        candidate=nearest.candidate,
        nearest=nearest,
        bytes_per_row=nearest.bytes_per_row,
        chosen=False,
        reason=reason,
    )


def choose(verdicts: Sequence[Verdict], bounds: Bounds) -> list[Verdict]:
    """The same verdicts, the best of those without a reason against them marked as chosen."""
    fitting = [v for v in verdicts if v.nearest is not None and not v.reason]
    if not fitting:
        return list(verdicts)
    by_bytes = bounds.max_latency_ms is not None and bounds.max_bytes_per_row is None

    quickest = min(v.nearest.p95_ms for v in fitting if v.nearest)

    def cost(verdict: Verdict) -> tuple[bool, float, float]:
        assert verdict.nearest is not None
        slow = not by_bytes and verdict.nearest.p95_ms > ABOUT * quickest
        return slow, verdict.nearest.bytes_per_row, verdict.nearest.p95_ms

    best = min(fitting, key=cost)
    assert best.nearest is not None
    found = []
    for verdict in verdicts:
        if verdict is best:
            reason = "fewest bytes" if by_bytes else "fewest bytes of the quickest"
            found.append(replace(verdict, chosen=True, reason=reason))
        elif verdict in fitting:
            assert verdict.nearest is not None
            fewer = by_bytes or verdict.nearest.p95_ms <= ABOUT * quickest
            against = (
                f"fits, but {best.nearest.bytes_per_row:.0f} bytes are fewer"
                if fewer
                else f"fits, but {best.nearest.p95_ms:.3g} ms are quicker"
            )
            found.append(replace(verdict, reason=against))
        else:
            found.append(verdict)
    return found


def broken(choice: Choice, bounds: Bounds) -> list[str]:
    """The bounds that a choice does not keep, in words."""
    found = []
    if choice.recall_at_100 < bounds.target_recall:
        found.append(f"recall {choice.recall_at_100:.4f}, below {bounds.target_recall:.4g}")
    if bounds.max_latency_ms is not None and choice.p95_ms > bounds.max_latency_ms:
        found.append(f"{choice.p95_ms:.3g} ms, above {bounds.max_latency_ms:.4g}")
    if bounds.max_bytes_per_row is not None and choice.bytes_per_row > bounds.max_bytes_per_row:
        found.append(f"{choice.bytes_per_row:.0f} bytes per row, above {bounds.max_bytes_per_row:.4g}")
    return found


def excess(choice: Choice, bounds: Bounds) -> float:
    """By what factor a choice breaks the bounds, all factors multiplied; 1 when it keeps them."""
    missed = max(1 - choice.recall_at_100, 1e-4) / max(1 - bounds.target_recall, 1e-4)
    factor = max(1.0, missed)
    if bounds.max_latency_ms is not None:
        factor *= max(1.0, choice.p95_ms / bounds.max_latency_ms)
    if bounds.max_bytes_per_row is not None:
        factor *= max(1.0, choice.bytes_per_row / bounds.max_bytes_per_row)
    return factor
