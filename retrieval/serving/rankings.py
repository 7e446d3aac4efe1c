"""Answers put together: from what each entity type's shards found to rankings with attributes, and what they are worth.

Candidates of several types are ranked together by the same tie rule; equal ids of two types are two entities. Knows
nothing about how shards are searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from retrieval.errors import FailedPrecondition, InvalidQuery
from retrieval.serving.calls import EntityId, GenerationDescription, Grouping, Ranking, Source, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.fanout import Merged
from retrieval.serving.filtering.bitmaps import (
    check_crowding,
    check_filter,
    codes_of,
    concatenated,
    crowd_ranks,
    kind_of,
)
from retrieval.serving.filtering.filters import UNRESTRICTED
from retrieval.serving.shards import Shard
from retrieval.types import I32, AnyArray


@dataclass(frozen=True, kw_only=True)
class Served:
    """The live generation of one entity type: what it is and its opened shards.

    hidden: ids that the shards do not answer with, because they were written again or deleted since.
    """

    about: GenerationDescription
    shards: tuple[Shard, ...]
    efforts: Efforts
    hidden: frozenset[EntityId] = frozenset()

    @cached_property
    def schema(self) -> pa.Schema:
        """Attribute columns of all shards; a column that some shards do not have is null there."""
        return pa.unify_schemas([shard.schema for shard in self.shards], promote_options="permissive")


def check_mergeable(types: Sequence[Served]) -> None:
    """FailedPrecondition when the scores of these types cannot stand in one ranking."""
    metrics = {served.about.manifest.metric for served in types}
    if len(metrics) > 1:
        named = ", ".join(f"{served.about.manifest.entity_type} by {served.about.manifest.metric}" for served in types)
        raise FailedPrecondition(
            f"one ranking cannot hold scores of different metrics ({named}): group by entity type, or ask for one type"
        )


def check_columns(types: Sequence[Served], columns: Sequence[str]) -> None:
    """InvalidQuery naming the columns there are when one asked for is in none of the types."""
    if not columns:
        return
    known = sorted({name for served in types for name in served.about.columns})
    for name in columns:
        if name not in known:
            raise InvalidQuery(f"there is no attribute {name!r}; there are: {', '.join(known) or 'none'}")


def check_restriction(types: Sequence[Served], wanted: Wanted) -> None:
    """InvalidQuery when the filter or the crowding does not fit the columns of the types asked for.

    A column has to be there in one type at least; in the others it is null.
    """
    restriction = wanted.restriction
    if restriction == UNRESTRICTED:
        return
    together = _one_schema(types)
    if restriction.filter is not None:
        for served in types:
            check_filter(restriction.filter, served.schema, must_exist=False)
        check_filter(restriction.filter, together)
    if restriction.crowding is not None:
        column = restriction.crowding.column
        check_crowding(restriction.crowding, together)
        found = {kind_of(each.schema.field(column).type) for each in types if column in each.schema.names}
        if len(found) > 1 and wanted.grouping is Grouping.MERGED:
            raise InvalidQuery(
                f"crowding by {column!r} is not possible in one ranking, it is {' and '.join(sorted(map(str, found)))} "
                "in different entity types: group by entity type, or ask for one type"
            )


def _one_schema(types: Sequence[Served]) -> pa.Schema:
    """Every column of the types, as the first type that has it has it."""
    fields = {field.name: field for served in reversed(types) for field in served.schema}
    return pa.schema(list(fields.values()))


def rankings(types: Sequence[Served], parts: Sequence[Merged], wanted: Wanted) -> tuple[Ranking, ...]:
    """The rankings of one query: one over all types, or one per type. parts: what each type found."""
    if wanted.grouping is Grouping.BY_ENTITY_TYPE or len(types) == 1:
        return tuple(_of_one_type(types, parts, number, wanted.attributes) for number in range(len(types)))
    ids = _comparable([part.ids for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    source_index = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.scores) for part in parts])
    order = np.lexsort((source_index, ids, -scores))
    crowding = wanted.restriction.crowding
    if crowding is not None:
        crowd = [pa.nulls(len(part.scores)) if part.crowd is None else part.crowd for part in parts]
        order = order[crowd_ranks(codes_of(concatenated(crowd))[order]) < crowding.at_most]
    order = order[: wanted.k]
    source_index = source_index[order]
    attributes = {}
    if wanted.attributes:
        shards = np.concatenate([part.shards for part in parts])[order]
        rows = np.concatenate([part.rows for part in parts])[order]
        attributes = _attributes(types, source_index, shards, rows, wanted.attributes)
    return (
        Ranking(
            entity_type=None, ids=ids[order], scores=scores[order], source_index=source_index, attributes=attributes
        ),
    )


def with_shortfall(source: Source, found: int, wanted: Wanted) -> Source:
    """The source, saying so when fewer than k candidates were found, and what kept them away."""
    k, crowding = wanted.k, wanted.restriction.crowding
    if found >= k:
        return source
    asked = f"{k:,} candidates were asked for"
    if source.matches is not None and source.matches < k and (found == source.matches or crowding is None):
        reason = f"{asked}, the filter allows {source.matches:,} rows"
    elif crowding is not None:
        reason = f"{asked}, at most {crowding.at_most:,} for each {crowding.column!r} leave {found:,}"
    elif source.rows < k:
        reason = f"{asked}, the generation has {source.rows:,} rows"
    else:
        reason = f"{asked}, the search found {found:,}: raise the effort"
    return replace(source, degraded=(*source.degraded, reason))


def _of_one_type(types: Sequence[Served], parts: Sequence[Merged], number: int, columns: Sequence[str]) -> Ranking:
    part = parts[number]
    source_index = np.full(len(part.scores), number, np.int32)
    return Ranking(
        entity_type=types[number].about.manifest.entity_type,
        ids=part.ids,
        scores=part.scores,
        source_index=source_index,
        attributes=_attributes(types, source_index, part.shards, part.rows, columns) if columns else {},
    )


def _comparable(ids: Sequence[AnyArray]) -> AnyArray:
    if len({part.dtype for part in ids if len(part)}) > 1:
        ids = [part if part.dtype == object else part.astype(str).astype(object) for part in ids]
    return np.concatenate([part for part in ids if len(part)] or [ids[0]])


def _attributes(
    types: Sequence[Served], source_index: I32, shards: I32, rows: I32, columns: Sequence[str]
) -> dict[str, pa.Array]:
    taken: dict[str, list[pa.Array]] = {name: [] for name in columns}
    places = []
    for number, served in enumerate(types):
        for shard_number, shard in enumerate(served.shards):
            place = np.flatnonzero((source_index == number) & (shards == shard_number))
            if place.size:
                places.append(place)
                for name, values in shard.attributes(rows[place], columns).items():
                    taken[name].append(values)
    if not places:
        return {name: pa.nulls(0) for name in columns}
    back = pa.array(np.argsort(np.concatenate(places), kind="stable"))
    return {name: _concatenated(name, parts).take(back) for name, parts in taken.items()}


def _concatenated(name: str, parts: list[pa.Array]) -> pa.Array:
    if len({part.type for part in parts}) == 1:
        return pa.concat_arrays(parts)
    try:
        tables = [pa.table({name: part}) for part in parts]
        return pa.concat_tables(tables, promote_options="permissive").column(name).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        kinds = " and ".join(sorted({str(part.type) for part in parts}))
        raise InvalidQuery(
            f"attribute {name!r} is {kinds} in different entity types: group by entity type, or leave it out"
        ) from None
