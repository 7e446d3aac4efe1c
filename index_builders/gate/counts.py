"""Rows read, refused and built, shards and inverted lists: what the manifests say, held against the limits.

List sizes are what the builder counted when it filled the lists. Knows nothing about vectors or answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from index_builders.gate.limits import GateLimits
from index_builders.gate.report import Counts, Finding, Lists, finding
from retrieval.store import Manifest
from retrieval.types import IndexKind

_JUDGED_SHARD_ROWS = 200  # below it chance alone makes shards of a hash unequal


def tally(manifest: Manifest) -> Counts:
    """The counts of one generation."""
    return Counts(
        rows_in=manifest.rows_in,
        quarantined=manifest.quarantine.total,
        reasons=dict(sorted(manifest.quarantine.counts.items())),
        rows=manifest.rows,
        shards=[shard.rows for shard in manifest.shards],
    )


def lists(manifest: Manifest) -> tuple[list[Lists], list[str]]:
    """The inverted lists of each IVF-PQ shard, and in words which shards do not tell theirs."""
    found, unknown = [], []
    for shard in manifest.shards:
        if shard.kind is not IndexKind.IVFPQ:
            continue
        try:
            nlist, report = int(shard.build_params["nlist"]), shard.report
            found.append(
                Lists(
                    shard=shard.name,
                    lists=nlist,
                    rows=shard.rows,
                    longest_over_mean=round(int(report["longest_list"]) * nlist / shard.rows, 6),
                    imbalance=float(report["imbalance"]),
                    empty=int(report["empty_lists"]),
                )
            )
        except (KeyError, TypeError, ValueError):
            unknown.append(f"the lists of {shard.name} are not judged: its builder did not count them")
    return found, unknown


def judge(tallied: Mapping[str, Counts], found: Sequence[Lists], limits: GateLimits) -> list[Finding]:
    """Findings about rows, refused rows, shards and lists; `tallied` has "new" and, with a parent, "old"."""
    new, old = tallied["new"], tallied.get("old")
    return _rows(new, old, limits) + _shards(new, limits) + [each for one in found for each in _lists(one, limits)]


def _rows(new: Counts, old: Counts | None, limits: GateLimits) -> list[Finding]:
    findings = []
    refused = _share(new)
    reasons = ", ".join(f"{count} {reason}" for reason, count in new.reasons.items())
    rows = f"{new.quarantined} of {new.rows_in} source rows are refused ({reasons})"
    look_at = "the refused rows that the manifest names by reason, and what wrote them"
    if refused > limits.max_quarantined:
        sentence = f"{rows}, {refused:.2%} where {limits.max_quarantined:.2%} is allowed"
        findings.append(finding("max_quarantined", refused, limits.max_quarantined, sentence, look_at))
    if old is None:
        return findings
    rise = refused - _share(old)
    if rise > limits.max_quarantine_rise:
        sentence = (
            f"{rows}, {refused:.2%} against the parent's {_share(old):.2%} where a rise of "
            f"{limits.max_quarantine_rise:.2%} is allowed"
        )
        findings.append(finding("max_quarantine_rise", rise, limits.max_quarantine_rise, sentence, look_at))
    change = (new.rows - old.rows) / old.rows
    counted = f"{new.rows} rows against the parent's {old.rows}"
    look_at = "whether the source is complete, and whether it was read once: its files and their row counts"
    if -change > limits.max_rows_lost:
        sentence = f"{counted}, {-change:.2%} fewer where {limits.max_rows_lost:.2%} is allowed"
        findings.append(finding("max_rows_lost", -change, limits.max_rows_lost, sentence, look_at))
    if change > limits.max_rows_gained:
        sentence = f"{counted}, {change:.2%} more where {limits.max_rows_gained:.2%} is allowed"
        findings.append(finding("max_rows_gained", change, limits.max_rows_gained, sentence, look_at))
    return findings


def _share(counts: Counts) -> float:
    return counts.quarantined / max(1, counts.rows_in)


def _shards(new: Counts, limits: GateLimits) -> list[Finding]:
    mean = new.rows / len(new.shards)
    ratio = max(new.shards) / mean
    if mean < _JUDGED_SHARD_ROWS or ratio <= limits.max_shard_ratio:
        return []
    sentence = (
        f"the largest shard has {max(new.shards)} rows, {ratio:.2f} times the mean where {limits.max_shard_ratio:g} is "
        "allowed"
    )
    look_at = "how ids are placed in shards: the manifest's placement"
    return [finding("max_shard_ratio", ratio, limits.max_shard_ratio, sentence, look_at)]


def _lists(one: Lists, limits: GateLimits) -> list[Finding]:
    empty = one.empty / one.lists
    judged = (
        (
            "max_longest_list",
            one.longest_over_mean,
            limits.max_longest_list,
            f"the longest of {one.lists} lists of {one.shard} is {one.longest_over_mean:.1f} times the mean, "
            f"{limits.max_longest_list:g} is allowed",
        ),
        (
            "max_list_imbalance",
            one.imbalance,
            limits.max_list_imbalance,
            f"a visited list of {one.shard} holds {one.imbalance:.2f} times the rows of equal lists, "
            f"{limits.max_list_imbalance:g} is allowed",
        ),
        (
            "max_empty_lists",
            empty,
            limits.max_empty_lists,
            f"{one.empty} of {one.lists} lists of {one.shard} are empty, {empty:.1%} where "
            f"{limits.max_empty_lists:.1%} is allowed",
        ),
    )
    look_at = (
        "what the partition was trained on: many equal vectors, or a sample of other data; fewer lists, or train anew"
    )
    return [
        finding(limit, figure, allowed, sentence, look_at)
        for limit, figure, allowed, sentence in judged
        if figure > allowed
    ]
