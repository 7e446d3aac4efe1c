"""Filters as a caller writes them: `all_of(equal("brand", "Acme"), between("price", at_most=50))`.

Each builder gives a frozen `Filter`, which holds the wire message. An entity without a value in a column fulfils no
condition on it, so `negated` of one is fulfilled. Knows nothing about the columns that a server has: a filter that does
not fit them comes back as InvalidQuery with the server's sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from google.protobuf import json_format

from retrieval.errors import InvalidQuery
from retrieval.pb.retrieval.v1 import retrieval_pb2 as pb

FilterValue: TypeAlias = str | int | float | bool

_VALUE_FIELDS = ("value", "at_least", "atLeast", "above", "at_most", "atMost", "below")
_MAX_JSON_DEPTH = 50  # the server allows 16 filters inside each other, and each takes up to three levels of JSON


@dataclass(frozen=True)
class Filter:
    """A condition on attribute columns, as the bytes of its message; made by the functions of this module."""

    data: bytes

    def message(self) -> pb.Filter:
        """The wire message."""
        return pb.Filter.FromString(self.data)


@dataclass(frozen=True, kw_only=True)
class Crowding:
    """At most `at_most` candidates for each value of `column`, the best ones, before the cut at k."""

    column: str
    at_most: int


def equal(column: str, value: FilterValue) -> Filter:
    """The column has this value; a list column has it among its values."""
    return _made(pb.Filter(equal=pb.Equal(column=column, value=_value(column, value))))


def is_in(column: str, values: Iterable[FilterValue]) -> Filter:
    """The column has one of these values; a list column has one of them among its values."""
    if isinstance(values, str):
        raise InvalidQuery(f"the values of {column!r} are one string: give a list, [{values!r}]")
    message = pb.Filter()
    getattr(message, "in").CopyFrom(pb.In(column=column, values=[_value(column, value) for value in values]))
    return _made(message)


def between(
    column: str,
    *,
    at_least: FilterValue | None = None,
    above: FilterValue | None = None,
    at_most: FilterValue | None = None,
    below: FilterValue | None = None,
) -> Filter:
    """The column lies between bounds; None does not bound. For columns of numbers and strings."""
    bounds = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    given = {name: _value(column, value) for name, value in bounds.items() if value is not None}
    return _made(pb.Filter(range=pb.Range(column=column, **given)))


def all_of(*filters: Filter) -> Filter:
    """Every one of these holds."""
    return _made(pb.Filter(all_of=pb.FilterList(filters=[each.message() for each in filters])))


def any_of(*filters: Filter) -> Filter:
    """At least one of these holds."""
    return _made(pb.Filter(any_of=pb.FilterList(filters=[each.message() for each in filters])))


def negated(wanted: Filter) -> Filter:
    """This does not hold."""
    return _made(pb.Filter(negated=wanted.message()))


def filter_from_json(text: str) -> Filter:
    """The filter that a JSON text describes by the fields of the message `Filter`; values may be plain.

    For example {"all_of": {"filters": [{"equal": {"column": "brand", "value": "Acme"}}]}}. Raises InvalidQuery for
    what is no JSON, and for a field that does not exist.
    """
    try:
        found = json.loads(text)
        return _made(json_format.ParseDict(_typed(found, 0), pb.Filter()))
    except json.JSONDecodeError as error:
        raise InvalidQuery(f"the filter is not JSON ({error}): {_EXAMPLE}") from None
    except (json_format.ParseError, TypeError, AttributeError) as error:
        raise InvalidQuery(f"the filter cannot be read: {' '.join(str(error).split())}; {_EXAMPLE}") from None
    except RecursionError:
        raise InvalidQuery("the filter is nested too deeply: flatten its and, or and not") from None


_EXAMPLE = 'write it like {"equal": {"column": "brand", "value": "Acme"}}'


def _typed(found: Any, depth: int) -> Any:
    """The same JSON with plain values turned into `Value` messages."""
    if depth > _MAX_JSON_DEPTH:
        raise RecursionError
    if isinstance(found, list):
        return [_typed(each, depth + 1) for each in found]
    if not isinstance(found, dict):
        return found
    typed = {}
    for name, value in found.items():
        if name in _VALUE_FIELDS:
            typed[name] = _json_value(value)
        elif name == "values" and isinstance(value, list):
            typed[name] = [_json_value(each) for each in value]
        else:
            typed[name] = _typed(value, depth + 1)
    return typed


def _json_value(value: Any) -> Any:
    if isinstance(value, bool):
        return {"bool_value": value}
    if isinstance(value, int):
        return {"int_value": value}
    if isinstance(value, float):
        return {"float_value": value}
    return {"string_value": value} if isinstance(value, str) else value


def _value(column: str, value: FilterValue) -> pb.Value:
    if isinstance(value, np.generic):
        value = value.item()
    try:
        if isinstance(value, bool):
            return pb.Value(bool_value=value)
        if isinstance(value, int):
            return pb.Value(int_value=value)
        if isinstance(value, float):
            return pb.Value(float_value=value)
        if isinstance(value, str):
            return pb.Value(string_value=value)
    except ValueError:  # beyond 64 bits, or half a character
        raise InvalidQuery(
            f"the filter on {column!r} compares with {value!r}, which no message can carry: send a 64-bit number or a "
            "valid text"
        ) from None
    raise InvalidQuery(
        f"the filter on {column!r} compares with a {type(value).__name__}: send a string, a number or a bool"
    )


def _made(message: pb.Filter) -> Filter:
    # sorted, so that equal filters are equal bytes
    return Filter(message.SerializeToString(deterministic=True))
