"""Filters made into row bitmaps: what a filter says of columns of one shard, as one bit a row.

Every comparison is two-valued: a row without a value fulfils none, and `Not` turns that round. An int column meets a
fraction exactly (2.5 equals none of its values); a value goes to a float column rounded to the column's own precision,
so that 0.1 finds the 0.1 that was stored. Strings, dates among them, compare by code point. Dictionary columns are
compared once per distinct value. Knows nothing about vectors, queries or other shards.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cachetools import LRUCache

from retrieval.errors import InvalidQuery
from retrieval.serving.filtering.filters import AllOf, AnyOf, Crowding, Equal, Filter, In, Not, Range, Value
from retrieval.types import I32, U8, Bool

DEFAULT_CACHE_BYTES = 64 << 20
_ENTRY_BYTES = 256
_FITS = {
    "string": "send strings",
    "int": "send whole or decimal numbers",
    "float": "send numbers",
    "bool": "send true or false, in equal or in",
    "list": "send strings, in equal or in",
}


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """Rows that a filter allows: bits uint8 [ceil(n / 8)], least significant first, and how many are set."""

    bits: U8
    count: int


class RowFilters:
    """Bitmaps and crowding codes of one shard's columns, the most recently used ones kept within `cache_bytes`."""

    def __init__(self, columns: dict[str, pa.Array], n: int, cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._columns, self._n = columns, n
        self._lock = threading.Lock()
        self._cache: LRUCache[object, tuple[Allowed | I32, int]] = LRUCache(cache_bytes, getsizeof=lambda each: each[1])

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return pa.schema([(name, column.type) for name, column in self._columns.items()])

    def allowed(self, wanted: Filter) -> Allowed:
        """The rows [n] that fulfil a filter; InvalidQuery when it does not fit a column that is here."""
        # Checked before the cache is asked: 1, 1.0 and True are one key, and where all of them fit they mean the same.
        check_filter(wanted, self.schema, must_exist=False)
        held = self._held(wanted)
        if isinstance(held, Allowed):
            return held
        rows = self._mask(wanted)
        made = Allowed(bits=np.packbits(rows, bitorder="little"), count=int(np.count_nonzero(rows)))
        self._keep(wanted, made, made.bits.nbytes + _size(wanted))
        return made

    def crowd_codes(self, column: str) -> I32:
        """A number int32 [n] for each row's value in a column, the same for equal values; -1 without a value."""
        held = self._held(("crowd", column))
        if isinstance(held, np.ndarray):
            return held
        values = self._columns.get(column)
        codes = np.full(self._n, -1, np.int32) if values is None else codes_of(values)
        self._keep(("crowd", column), codes, codes.nbytes)
        return codes

    def _held(self, key: object) -> Allowed | I32 | None:
        with self._lock:
            found = self._cache.get(key)
        return None if found is None else found[0]

    def _keep(self, key: object, value: Allowed | I32, size: int) -> None:
        with self._lock:
            if size <= self._cache.maxsize:
                self._cache[key] = (value, size)

    def _mask(self, wanted: Filter) -> Bool:
        if isinstance(wanted, AllOf):
            every = [self._mask(each) for each in wanted.filters]
            return np.asarray(np.logical_and.reduce(every or [np.ones(self._n, bool)]))
        if isinstance(wanted, AnyOf):
            some = [self._mask(each) for each in wanted.filters]
            return np.asarray(np.logical_or.reduce(some or [np.zeros(self._n, bool)]))
        if isinstance(wanted, Not):
            return ~self._mask(wanted.filter)
        column = self._columns.get(wanted.column)
        return np.zeros(self._n, bool) if column is None else _compare(column, wanted)


def codes_of(values: pa.Array) -> I32:
    """A number int32 [n] per value, the same for equal ones; -1 for null."""
    encoded = pc.dictionary_encode(_plain(values))
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.int32)


def concatenated(parts: list[pa.Array]) -> pa.Array:
    """Columns of several shards or types laid end to end; null types and widths give way to each other."""
    tables = [pa.table({"values": _plain(part)}) for part in parts]
    column = pa.concat_tables(tables, promote_options="permissive").column("values").combine_chunks()
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def crowd_ranks(codes: I32) -> I32:
    """For candidates in order, best first: how many before each have its code, int32 [n]; 0 for code -1."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(codes) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(codes)])
    ranks = np.empty(len(codes), np.int32)
    ranks[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    ranks[codes == -1] = 0
    return ranks


def check_filter(wanted: Filter, schema: pa.Schema, *, must_exist: bool = True) -> None:
    """InvalidQuery naming the column, its type and what fits, when a filter cannot be asked of these columns."""
    if isinstance(wanted, AllOf | AnyOf):
        for each in wanted.filters:
            check_filter(each, schema, must_exist=must_exist)
    elif isinstance(wanted, Not):
        check_filter(wanted.filter, schema, must_exist=must_exist)
    elif wanted.column not in schema.names:
        if must_exist:
            raise InvalidQuery(
                f"the filter names column {wanted.column!r}; there are: {', '.join(schema.names) or 'none'}"
            )
    else:
        _check_condition(wanted, schema.field(wanted.column).type)


def check_crowding(wanted: Crowding, schema: pa.Schema) -> None:
    """InvalidQuery when crowding cannot be done by this column, or lets nothing through."""
    if wanted.at_most < 1:
        raise InvalidQuery(f"crowding to at most {wanted.at_most} per value leaves nothing: allow at least 1")
    if wanted.column not in schema.names:
        raise InvalidQuery(f"crowding names column {wanted.column!r}; there are: {', '.join(schema.names) or 'none'}")
    found = schema.field(wanted.column).type
    if kind_of(found) in (None, "list"):
        raise InvalidQuery(
            f"crowding by {wanted.column!r} ({found}) is not possible: take a column with one string, number or bool"
        )


def kind_of(found: pa.DataType) -> str | None:
    """string, int, float, bool or list: what filters know; None for other types."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_string(found) or pa.types.is_large_string(found):
        return "string"
    if pa.types.is_integer(found):
        return "int"
    if pa.types.is_floating(found):
        return "float"
    if pa.types.is_boolean(found):
        return "bool"
    if (pa.types.is_list(found) or pa.types.is_large_list(found)) and kind_of(found.value_type) == "string":
        return "list"
    return None


def _check_condition(wanted: Equal | In | Range, found: pa.DataType) -> None:
    kind, named = kind_of(found), f"column {wanted.column!r} is {found}"
    if kind is None:
        raise InvalidQuery(f"{named}, which filters do not know: filter by strings, numbers, bools or lists of strings")
    if isinstance(wanted, Range) and kind in ("bool", "list"):
        raise InvalidQuery(f"{named}, which has no range: {_FITS[kind]}")
    for value in _values(wanted):
        if isinstance(value, float) and math.isnan(value):
            raise InvalidQuery(f"the filter on {wanted.column!r} compares with NaN, which equals nothing: leave it out")
        if kind in ("string", "list"):
            fits = isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value)
        elif kind == "bool":
            fits = isinstance(value, bool)
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits:
            raise InvalidQuery(f"{named} and cannot be compared with {value!r}: {_FITS[kind]}")


def _values(wanted: Equal | In | Range) -> tuple[Value, ...]:
    if isinstance(wanted, Equal):
        return (wanted.value,)
    if isinstance(wanted, In):
        return wanted.values
    bounds = (wanted.at_least, wanted.above, wanted.at_most, wanted.below)
    return tuple(each for each in bounds if each is not None)


def _size(wanted: Filter) -> int:
    """About what a filter weighs as a key."""
    if isinstance(wanted, AllOf | AnyOf):
        return _ENTRY_BYTES + sum(_size(each) for each in wanted.filters)
    if isinstance(wanted, Not):
        return _ENTRY_BYTES + _size(wanted.filter)
    return _ENTRY_BYTES + sum(64 + (4 * len(each) if isinstance(each, str) else 0) for each in _values(wanted))


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _compare(column: pa.Array, wanted: Equal | In | Range) -> Bool:
    """Bool [n]: which values fulfil a condition that fits them."""
    if pa.types.is_dictionary(column.type):
        distinct = pa.array(_compare(column.dictionary, wanted))
        return _flags(distinct.take(column.indices))
    if kind_of(column.type) == "list":
        inside = _compare(pc.list_flatten(column), wanted)
        flags = np.zeros(len(column), bool)
        flags[pc.list_parent_indices(column).to_numpy()[inside]] = True
        return flags
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    if isinstance(wanted, Range):
        return _in_range(column, wanted)
    values = _fitted(column.type, _values(wanted))
    # null is never a member of a set without null
    return _flags(pc.is_in(column, value_set=values, skip_nulls=True))


def _fitted(column_type: pa.DataType, values: tuple[Value, ...]) -> pa.Array:
    """The values as an array of the column's type, less those that no value of it can equal."""
    if pa.types.is_integer(column_type):
        low, high = _limits(column_type)
        whole = [int(each) for each in values if not isinstance(each, float) or each.is_integer()]
        return pa.array([each for each in whole if low <= each <= high], column_type)
    if pa.types.is_floating(column_type):
        return pa.array([_rounded(each, column_type) for each in values], column_type)
    return pa.array(values, column_type)


def _in_range(column: pa.Array, wanted: Range) -> Bool:
    flags = _flags(column.is_valid())
    bounds = (
        (pc.greater_equal, wanted.at_least),
        (pc.greater, wanted.above),
        (pc.less_equal, wanted.at_most),
        (pc.less, wanted.below),
    )
    for compare, bound in bounds:
        if bound is None:
            continue
        if pa.types.is_integer(column.type):
            flags &= _int_bound(column, compare, bound)
        else:
            value = _rounded(bound, column.type) if pa.types.is_floating(column.type) else bound
            flags &= _flags(compare(column, pa.scalar(value, column.type)))
    return flags


def _int_bound(column: pa.Array, compare: object, bound: Value) -> Bool:
    # whole bounds inside the column's range leave nothing to rounding or to overflow
    low, high = _limits(column.type)
    upward = compare in (pc.greater_equal, pc.greater)
    strict = compare in (pc.greater, pc.less)
    if isinstance(bound, float) and math.isinf(bound):
        return np.full(len(column), (bound < 0) == upward)
    assert isinstance(bound, int | float)
    if upward:
        least = math.floor(bound) + 1 if strict else math.ceil(bound)
        if least > high:
            return np.zeros(len(column), bool)
        return _flags(pc.greater_equal(column, pa.scalar(max(least, low), column.type)))
    most = math.ceil(bound) - 1 if strict else math.floor(bound)
    if most < low:
        return np.zeros(len(column), bool)
    return _flags(pc.less_equal(column, pa.scalar(min(most, high), column.type)))


def _limits(column_type: pa.DataType) -> tuple[int, int]:
    limits = np.iinfo(column_type.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _rounded(value: Value, column_type: pa.DataType) -> float:
    try:
        exact = float(value)
    except OverflowError:
        exact = math.copysign(math.inf, 1 if int(value) > 0 else -1)
    if pa.types.is_float32(column_type):
        with np.errstate(over="ignore"):
            return float(np.float32(exact))
    return exact


def _flags(values: pa.Array) -> Bool:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)
