"""After the build: by how much the choice was off, for the manifest's warnings. Pure function over figures."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from index_builders.tune.choose import Choice
from retrieval.store.manifest import FrontierPoint


class Promise(BaseModel):
    """What tuning expects of a build at one effort; travels with the settings and changes nothing in the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    search: dict[str, int]
    recall_at_100: float
    p95_ms: float
    sample_rows: int


def promise(choice: Choice, sample_rows: int) -> Promise:
    """The promise of a choice judged on so many rows."""
    return Promise(
        search=choice.search, recall_at_100=choice.recall_at_100, p95_ms=choice.p95_ms, sample_rows=sample_rows
    )


def outcome(promised: Promise, frontier: Sequence[FrontierPoint]) -> str:
    """One sentence: promised and measured recall and latency at the promised effort."""
    point = next((p for p in frontier if p.filter_band is None and p.params == promised.search), None)
    effort = ", ".join(f"{name} {value}" for name, value in promised.search.items() if value) or "exact"
    said = (
        f"tuned on {promised.sample_rows:,} rows for {effort}: recall@100 {promised.recall_at_100:.4f} and p95 "
        f"{promised.p95_ms:.3g} ms were expected"
    )
    if point is None:
        return f"{said}, and this build did not measure that effort"
    factor = point.p95_ms / max(promised.p95_ms, 1e-6)
    return (
        f"{said}, {point.recall_at_100:.4f} ({point.recall_at_100 - promised.recall_at_100:+.4f}) and "
        f"{point.p95_ms:.3g} ms ({factor:.2f} times) were measured"
    )
