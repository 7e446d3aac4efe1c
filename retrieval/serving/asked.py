"""What one call may ask: k, sizes, columns, filters and ids, each refused in one sentence before any work is done.

Knows nothing about how a call is answered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from retrieval.errors import InvalidQuery
from retrieval.serving.calls import DEFAULT_EFFORT, EntityId, Grouping, Limits, Wanted
from retrieval.serving.effort import choice, efforts
from retrieval.serving.rankings import Served, check_columns, check_mergeable, check_restriction
from retrieval.types import AnyArray, IdType

_INT64 = np.iinfo(np.int64)


def check_search(queries: int, wanted: Wanted, types: Sequence[Served], limits: Limits) -> None:
    """InvalidQuery, InvalidParams or FailedPrecondition for a search of so many queries that cannot be answered."""
    k = wanted.k
    if not 1 <= k <= limits.max_k:
        raise InvalidQuery(f"k = {k:,} is not acceptable: ask for 1 to {limits.max_k:,} candidates")
    check_batch(queries, "queries", limits)
    if queries * k * len(types) > limits.max_candidates:
        raise InvalidQuery(
            f"{queries:,} queries x k = {k:,} x {len(types)} entity types are over the limit of "
            f"{limits.max_candidates:,} candidates a call: send fewer queries or lower k"
        )
    if not 0 <= wanted.minimum_coverage <= 1:
        raise InvalidQuery(f"minimum coverage {wanted.minimum_coverage} is not acceptable: it is a share, 0 to 1")
    choice.check_min_recall(wanted)
    if wanted.effort is not DEFAULT_EFFORT:
        efforts.check_effort(wanted.effort)
    check_columns(types, wanted.attributes)
    check_restriction(types, wanted)
    if wanted.grouping is Grouping.MERGED:
        check_mergeable(types)


def check_batch(size: int, what: str, limits: Limits) -> None:
    """InvalidQuery for a batch that is empty or over the limit."""
    if not 1 <= size <= limits.max_batch:
        raise InvalidQuery(f"the batch has {size:,} {what}, the limits are 1 and {limits.max_batch:,}")


def id_array(ids: Sequence[EntityId] | AnyArray, served: Served) -> AnyArray:
    """The ids as int64 [n] or object [n] of str; InvalidQuery when they are not of the generation's id type."""
    manifest = served.about.manifest
    if isinstance(ids, np.ndarray) and ids.dtype == np.int64:
        right = manifest.id_type is IdType.INT64
    elif manifest.id_type is IdType.INT64:
        right = all(isinstance(each, int | np.integer) and _INT64.min <= each <= _INT64.max for each in ids)
    else:
        right = all(isinstance(each, str) for each in ids)
    if not right:
        raise InvalidQuery(f"ids of {manifest.entity_type} are of type {manifest.id_type}: send ids of that type")
    if manifest.id_type is IdType.INT64:
        return np.asarray(ids, np.int64)
    strings = np.empty(len(ids), object)
    strings[:] = list(ids)
    return strings
