"""Filters between the wire and `filtering.filters`, both ways. Knows nothing about columns that exist."""

from __future__ import annotations

from retrieval.errors import InvalidQuery
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb
from retrieval.serving.filtering.filters import AllOf, AnyOf, Equal, Filter, In, Not, Range, Value

MAX_DEPTH = 16
MAX_CONDITIONS = 1_000
MAX_VALUES = 10_000

_BOUNDS = ("at_least", "above", "at_most", "below")


def read_filter(message: pb.Filter) -> Filter:
    """A filter; InvalidQuery for an empty condition or value, and for more than the limits of this module."""
    count = [0]
    return _read(message, 1, count)


def write_filter(wanted: Filter) -> pb.Filter:
    """The same filter as a message."""
    if isinstance(wanted, Equal):
        return pb.Filter(equal=pb.Equal(column=wanted.column, value=_write_value(wanted.value)))
    if isinstance(wanted, In):
        message = pb.Filter()
        getattr(message, "in").column = wanted.column
        getattr(message, "in").values.extend(_write_value(value) for value in wanted.values)
        return message
    if isinstance(wanted, Range):
        bounds = {name: getattr(wanted, name) for name in _BOUNDS}
        given = {name: _write_value(value) for name, value in bounds.items() if value is not None}
        return pb.Filter(range=pb.Range(column=wanted.column, **given))
    if isinstance(wanted, AllOf):
        return pb.Filter(all_of=pb.FilterList(filters=[write_filter(each) for each in wanted.filters]))
    if isinstance(wanted, AnyOf):
        return pb.Filter(any_of=pb.FilterList(filters=[write_filter(each) for each in wanted.filters]))
    return pb.Filter(negated=write_filter(wanted.filter))


def _read(message: pb.Filter, depth: int, count: list[int]) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidQuery(f"the filter is nested more than {MAX_DEPTH} deep: flatten its and, or and not")
    count[0] += 1
    if count[0] > MAX_CONDITIONS:
        raise InvalidQuery(f"the filter has more than {MAX_CONDITIONS:,} conditions: use `in` for lists of values")
    form = message.WhichOneof("condition")
    if form == "equal":
        return Equal(column=_column(message.equal.column), value=_value(message.equal.value, "equal"))
    if form == "in":
        chosen = getattr(message, "in")
        if len(chosen.values) > MAX_VALUES:
            raise InvalidQuery(
                f"`in` on {chosen.column!r} lists {len(chosen.values):,} values, the limit is {MAX_VALUES:,}"
            )
        return In(column=_column(chosen.column), values=tuple(_value(value, "in") for value in chosen.values))
    if form == "range":
        given = {
            name: _value(getattr(message.range, name), "range") for name in _BOUNDS if message.range.HasField(name)
        }
        return Range(column=_column(message.range.column), **given)
    if form == "all_of":
        return AllOf(filters=tuple(_read(each, depth + 1, count) for each in message.all_of.filters))
    if form == "any_of":
        return AnyOf(filters=tuple(_read(each, depth + 1, count) for each in message.any_of.filters))
    if form == "negated":
        return Not(filter=_read(message.negated, depth + 1, count))
    raise InvalidQuery("the filter has an empty condition: set equal, in, range, all_of, any_of or negated")


def _column(name: str) -> str:
    if not name:
        raise InvalidQuery("a condition of the filter names no column: set it")
    return name


def _value(message: pb.Value, where: str) -> Value:
    form = message.WhichOneof("value")
    if form is None:
        raise InvalidQuery(f"a value of `{where}` is empty: set string_value, int_value, float_value or bool_value")
    value: Value = getattr(message, form)
    return value


def _write_value(value: Value) -> pb.Value:
    if isinstance(value, bool):
        return pb.Value(bool_value=value)
    if isinstance(value, int):
        return pb.Value(int_value=value)
    if isinstance(value, float):
        return pb.Value(float_value=value)
    return pb.Value(string_value=value)
