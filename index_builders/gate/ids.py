"""Which ids stayed, which are gone and which are new, and how many rows each segment has in both generations.

Ids are joined by Arrow, shard by shard where both generations place ids alike, so that memory is that of one shard.
Knows nothing about vectors or answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from index_builders.gate.answers import same_shards, segments
from index_builders.gate.compare import OTHERS
from index_builders.gate.limits import GateLimits
from index_builders.gate.report import Finding, Ids, SegmentRows, finding
from retrieval.store import Generation
from retrieval.store.generation import ID_COLUMN

_EXAMPLES = 5


def compare(old: Generation, new: Generation) -> Ids:
    """Counts and the first examples of the ids of two generations of one id type."""
    lost, fresh = _Few(), _Few()
    for before, now in _pairs(old, new):  # of what may differ
        lost.add(before.join(now, keys=ID_COLUMN, join_type="left anti"))
        fresh.add(now.join(before, keys=ID_COLUMN, join_type="left anti"))
    return Ids(
        kept=old.manifest.rows - lost.count,
        lost=lost.count,
        new=fresh.count,
        lost_examples=lost.examples(),
        new_examples=fresh.examples(),
    )


def segment_rows(old: Generation | None, new: Generation, limits: GateLimits) -> list[SegmentRows]:
    """Rows of each value of the segment column, those most frequent in the parent first; [] without a column."""
    if limits.segment_column is None:
        return []
    counted = {name: _count(each, limits.segment_column) for name, each in (("old", old), ("new", new)) if each}
    leading = counted.get("old") or counted["new"]
    ranked = sorted({*leading, *counted["new"]}, key=lambda value: (-leading[value], -counted["new"][value], value))
    own, others = ranked[: limits.max_segments], ranked[limits.max_segments :]
    found = [
        SegmentRows(segment=value, old=None if old is None else counted["old"][value], new=counted["new"][value])
        for value in own
    ]
    if others:
        sums = {name: sum(values[value] for value in others) for name, values in counted.items()}
        found.append(SegmentRows(segment=OTHERS, old=sums.get("old"), new=sums["new"]))
    return found


def judge(compared: Ids | None, found: list[SegmentRows], limits: GateLimits) -> list[Finding]:
    """Findings about lost and new ids and about segments that shrank."""
    findings = []
    if compared is not None:
        before, now = compared.kept + compared.lost, compared.kept + compared.new
        lost, fresh = compared.lost / before, compared.new / now
        if lost > limits.max_lost_ids:
            sentence = (
                f"{compared.lost} of the parent's {before} ids are gone "
                f"({_list(compared.lost_examples, compared.lost)}), {lost:.2%} where "
                f"{limits.max_lost_ids:.2%} is allowed"
            )
            look_at = "whether a file of the source is missing, and where these ids are in it"
            findings.append(finding("max_lost_ids", lost, limits.max_lost_ids, sentence, look_at))
        if fresh > limits.max_new_ids:
            sentence = (
                f"{compared.new} of the {now} ids are not in the parent ({_list(compared.new_examples, compared.new)})"
                f", {fresh:.2%} where {limits.max_new_ids:.2%} is allowed"
            )
            look_at = "whether ids are written in another form than before"
            findings.append(finding("max_new_ids", fresh, limits.max_new_ids, sentence, look_at))
    for each in found:
        if each.old is None or each.old < limits.min_segment_rows:
            continue
        gone = (each.old - each.new) / each.old
        if gone > limits.max_segment_lost:
            sentence = (
                f"segment {limits.segment_column} = {each.segment} has {each.new} rows against the parent's {each.old}"
                f", {gone:.1%} fewer where {limits.max_segment_lost:.1%} is allowed"
            )
            look_at = f"the source rows of {limits.segment_column} = {each.segment}"
            findings.append(finding("max_segment_lost", gone, limits.max_segment_lost, sentence, look_at))
    return findings


class _Few:
    """A count, and the smallest few of what was counted."""

    def __init__(self) -> None:
        self.count = 0
        self._smallest = pa.chunked_array([], pa.string())

    def add(self, table: pa.Table) -> None:
        self.count += table.num_rows
        names = table.column(ID_COLUMN)
        few = names.take(pc.select_k_unstable(names, min(_EXAMPLES, len(names)), [("", "ascending")]))
        known = self._smallest.chunks if len(self._smallest) else []
        self._smallest = pa.chunked_array([*known, *few.chunks], names.type)

    def examples(self) -> list[str]:
        """In ascending order of id, as text."""
        return [str(name) for name in sorted(self._smallest.to_pylist())[:_EXAMPLES]]


def _list(examples: list[str], count: int) -> str:
    return ", ".join(examples) + (", …" if count > len(examples) else "")


def _pairs(old: Generation, new: Generation) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Tables of ids of which each holds all that the other can hold."""
    placed = [(each.manifest.placement, len(each.manifest.shards)) for each in (old, new)]
    before, now = ([shard.rows().select([ID_COLUMN]) for shard in each.shards] for each in (old, new))
    if placed[0] == placed[1]:
        shared = same_shards(new, old)
        names = [shard.manifest.name for shard in new.shards]
        pairs = zip(names, before, now, strict=True)
        yield from ((was, here) for name, was, here in pairs if name not in shared)
    else:
        yield pa.concat_tables(before), pa.concat_tables(now)


def _count(generation: Generation, column: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for shard in generation.shards:
        rows = shard.rows()
        if column in rows.column_names:
            values = pc.value_counts(segments(rows.column(column)))
            counted.update(
                dict(zip(values.field("values").to_pylist(), values.field("counts").to_pylist(), strict=True))
            )
    return counted
