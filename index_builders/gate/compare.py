"""Answers held against answers: overlap and score shift against the parent, recall against exact search.

A group is a kind of query ("real", "items", …) or one value of the segment column. Knows nothing about files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index_builders.gate import answers as answered
from index_builders.gate.limits import GateLimits
from index_builders.gate.report import Comparison, Finding, Histogram, Recall, finding
from retrieval.types import F32, AnyArray

K = 100
OTHERS = "other values"
_DIGITS = 6
_BINS = 20
_LOOK_AT_OVERLAP = (
    "whether ids and vectors still belong together (search for a known entity in both), whether the texts of the "
    "entities or the effort changed; the table of comparisons tells which queries differ"
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Queries judged together: numbers [n], and whether they share a segment rather than a kind."""

    name: str
    queries: AnyArray
    segment: bool


def groups(kinds: Sequence[str], segments: Sequence[str], limits: GateLimits) -> list[Group]:
    """Queries by kind, in the order given, then by segment, the most frequent first."""
    by_kind = [Group(name=kind, queries=_where(kinds, kind), segment=False) for kind in dict.fromkeys(kinds)]
    if limits.segment_column is None:
        return by_kind
    frequent = sorted(Counter(segments).items(), key=lambda each: (-each[1], each[0]))
    own = {name for name, _ in frequent[: limits.max_segments] if name}
    named = [name if name in own else OTHERS for name in segments]
    order = [name for name, _ in frequent if name in own] + ([OTHERS] if OTHERS in named else [])
    title = limits.segment_column
    return by_kind + [Group(name=f"{title} = {name}", queries=_where(named, name), segment=True) for name in order]


def _where(labels: Sequence[str], wanted: str) -> AnyArray:
    return np.flatnonzero(np.array(labels, dtype=object) == wanted)


def recall(
    here: answered.Answers, truth: answered.Truth, found: Sequence[Group], limits: GateLimits
) -> tuple[list[Recall], list[Finding]]:
    """Recall@10 and @100 of each group, and a finding for each that is below its limit."""
    measured, findings = [], []
    for group in found:
        at_10, at_100 = (round(answered.recall(here, truth, group.queries, k), _DIGITS) for k in (10, K))
        measured.append(Recall(group=group.name, queries=len(group.queries), recall_at_10=at_10, recall_at_100=at_100))
        limit_at_10 = ("min_segment_recall", limits.min_segment_recall)
        if not group.segment:
            limit_at_10 = ("min_recall_at_10", limits.min_recall_at_10)
        elif len(group.queries) < limits.min_segment_queries:
            continue
        judged = [(10, at_10, *limit_at_10)]
        if not group.segment:
            judged.append((K, at_100, "min_recall_at_100", limits.min_recall_at_100))
        for k, figure, limit, allowed in judged:
            if figure < allowed:
                sentence = f"recall@{k} of {group.name} is {figure:.4f}, {allowed:g} is needed"
                look_at = "the default effort of the new generation and its frontier: `retrieval verify`"
                findings.append(finding(limit, figure, allowed, sentence, look_at))
    return measured, findings


def answers(
    before: answered.Answers, here: answered.Answers, found: Sequence[Group], limits: GateLimits
) -> tuple[list[Comparison], list[Finding], list[Histogram]]:
    """Overlap and score shift of each group; what breaks a limit; histograms over the kinds of query."""
    overlap = {k: _overlaps(before, here, k) for k in (10, K)}
    shift = _shifts(before, here)
    compared, findings = [], []
    for group in found:
        own = group.queries
        p01, p99 = np.quantile(shift[own], [0.01, 0.99])
        each = Comparison(
            group=group.name,
            queries=len(own),
            overlap_at_10=_rounded(overlap[10][own].mean()),
            overlap_at_100=_rounded(overlap[K][own].mean()),
            shift_mean=_rounded(shift[own].mean()),
            shift_p01=_rounded(p01),
            shift_p99=_rounded(p99),
        )
        compared.append(each)
        if not group.segment:
            findings += _findings(each, limits)
    series = {group.name: group.queries for group in found if not group.segment}
    widest = max(float(np.abs(shift).max()), 0.01)
    histograms = [
        _histogram("Overlap of the 10 best", "share of the parent's answers", overlap[10], series, 0.0, 1.0),
        _histogram("Overlap of the 100 best", "share of the parent's answers", overlap[K], series, 0.0, 1.0),
        _histogram("Shift of the mean score of the 10 best", "share of its size", shift, series, -widest, widest),
    ]
    return compared, findings, histograms


def _overlaps(before: answered.Answers, here: answered.Answers, k: int) -> F32:
    """Share float32 [q] of the old k best that are among the new k best."""
    pairs = zip(before.ids, here.ids, strict=True)
    shares = [len(set(old[:k].tolist()) & set(new[:k].tolist())) / max(1, len(old[:k])) for old, new in pairs]
    return np.array(shares, dtype=np.float32)


def _shifts(before: answered.Answers, here: answered.Answers) -> F32:
    """Change float32 [q] of the mean of the 10 best scores, as a share of the median of its size over all queries."""
    old, new = (np.array([scores[:10].mean() for scores in each.scores]) for each in (before, here))
    usual = max(float(np.median(np.abs(old))), float(np.finfo(np.float32).tiny))
    return np.asarray((new - old) / usual, dtype=np.float32)


def _findings(each: Comparison, limits: GateLimits) -> list[Finding]:
    found = []
    for k, figure, allowed in (
        (10, each.overlap_at_10, limits.min_overlap_at_10),
        (K, each.overlap_at_100, limits.min_overlap_at_100),
    ):
        if figure < allowed:
            sentence = f"{figure:.1%} of the parent's {k} best come back for {each.group}, {allowed:.1%} are needed"
            found.append(finding(f"min_overlap_at_{k}", figure, allowed, sentence, _LOOK_AT_OVERLAP))
    moved = abs(each.shift_mean)
    if moved > limits.max_score_shift:
        sentence = f"scores of {each.group} move by {each.shift_mean:+.1%}, {limits.max_score_shift:.1%} is allowed"
        look_at = "the norms of both generations, and whether one encoder made both under one space id"
        found.append(finding("max_score_shift", moved, limits.max_score_shift, sentence, look_at))
    if -each.shift_p01 > limits.max_score_drop:
        sentence = (
            f"one query in 100 of {each.group} loses {-each.shift_p01:.1%} of its score, "
            f"{limits.max_score_drop:.1%} is allowed"
        )
        look_at = "which entities are gone: lost ids and rows per segment"
        found.append(finding("max_score_drop", -each.shift_p01, limits.max_score_drop, sentence, look_at))
    return found


def _histogram(title: str, unit: str, values: F32, series: dict[str, AnyArray], least: float, most: float) -> Histogram:
    edges = np.linspace(least, most, _BINS + 1)
    counts = {name: np.histogram(values[own], edges)[0].tolist() for name, own in series.items()}
    return Histogram(title=title, unit=unit, edges=[_rounded(edge) for edge in edges], counts=counts)


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
