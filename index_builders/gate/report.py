"""What the gate found, as values: figures by topic, and a finding for each limit that does not hold.

`GateReport.model_dump()` is what a manifest keeps. All figures but `seconds` are the same for the same two generations,
queries and limits. Knows nothing about how figures are measured or shown.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(_Record):
    """One limit that does not hold: its name, what was measured, what it was held against, and what to look at."""

    limit: str
    figure: float
    allowed: float
    sentence: str
    look_at: str


def finding(limit: str, figure: float, allowed: float, sentence: str, look_at: str) -> Finding:
    """A finding, its figure rounded to what is worth reading."""
    return Finding(limit=limit, figure=round(figure, 6), allowed=allowed, sentence=sentence, look_at=look_at)


class Comparison(_Record):
    """Answers of both generations to the same queries, of one kind or segment.

    overlap_at_10, overlap_at_100: mean share of the old answers that are in the new ones; shift_*: change of the mean
    score of the 10 best, as a share of its usual size: mean, and the quantiles 1 % and 99 %.
    """

    group: str
    queries: int
    overlap_at_10: float
    overlap_at_100: float
    shift_mean: float
    shift_p01: float
    shift_p99: float


class Recall(_Record):
    """Recall of the new generation at its default effort, of one kind of query or one segment."""

    group: str
    queries: int
    recall_at_10: float
    recall_at_100: float


class SegmentRows(_Record):
    """Rows of one value of the segment column; old is None without a parent."""

    segment: str
    old: int | None
    new: int


class Counts(_Record):
    """Rows of a generation: read, refused (by reason), built, and per shard."""

    rows_in: int
    quarantined: int
    reasons: dict[str, int]
    rows: int
    shards: list[int]


class Lists(_Record):
    """Inverted lists of one shard: how many, the longest and the mean imbalance against equal lists, the empty ones."""

    shard: str
    lists: int
    rows: int
    longest_over_mean: float
    imbalance: float
    empty: int


class Norms(_Record):
    """Norms of the stored vectors of a generation, and the share of rows whose vector an earlier row has too."""

    rows: int
    mean: float
    smallest: float
    p01: float
    p50: float
    p99: float
    largest: float
    same_vectors: float


class Ids(_Record):
    """Ids of both generations: how many stayed, are gone, are new, with the first few in ascending order."""

    kept: int
    lost: int
    new: int
    lost_examples: list[str]
    new_examples: list[str]


class CanaryFigures(_Record):
    """The replay of the new generation's own canaries."""

    canaries: int
    recall: float
    worst: str


class Histogram(_Record):
    """Counts between edges [bins + 1], by series; what the plots show."""

    title: str
    unit: str
    edges: list[float]
    counts: dict[str, list[int]]


class GateReport(_Record):
    """The verdict on a new generation; passed is False when there is a finding. old: None for a first generation.

    skipped: what could not be compared, and why; seconds: time by stage, the only figures that differ from run to run.
    """

    entity_type: str
    old: str | None
    new: str
    passed: bool
    findings: list[Finding]
    skipped: list[str]
    comparisons: list[Comparison] = Field(default_factory=list)
    recall: list[Recall] = Field(default_factory=list)
    segments: list[SegmentRows] = Field(default_factory=list)
    counts: dict[str, Counts] = Field(default_factory=dict)
    lists: list[Lists] = Field(default_factory=list)
    norms: dict[str, Norms] = Field(default_factory=dict)
    ids: Ids | None = None
    canaries: CanaryFigures | None = None
    histograms: list[Histogram] = Field(default_factory=list)
    limits: dict[str, Any] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)

    def why(self) -> str:
        """The findings in one line, "" when there is none."""
        return "; ".join(f"{finding.sentence} (limit {finding.limit})" for finding in self.findings)

    def by_limit(self) -> list[list[Finding]]:
        """The findings of each limit that breaks, the one furthest from it first, in the order of the judgement."""
        grouped: dict[str, list[Finding]] = {}
        for each in self.findings:
            grouped.setdefault(each.limit, []).append(each)
        return [sorted(group, key=lambda each: -abs(each.figure - each.allowed)) for group in grouped.values()]

    def reasons(self) -> list[str]:
        """A line for each limit that breaks: its worst finding, and how many more shards or segments break it."""
        return [
            f"{group[0].limit}: {group[0].sentence}{f'; and {len(group) - 1} more' if len(group) > 1 else ''}"
            for group in self.by_limit()
        ]
