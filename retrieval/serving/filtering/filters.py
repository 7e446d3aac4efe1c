"""Conditions on attribute columns, as plain frozen values that travel between rooms and hosts.

A filter is a tree of comparisons joined by and, or, not. An entity without a value in a column fulfils no comparison of
that column, so `Not` of one is fulfilled. Knows nothing about Arrow, shards or the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Equal:
    """The column has this value; a list column has it among its values."""

    column: str
    value: Value


@dataclass(frozen=True, kw_only=True)
class In:
    """The column has one of these values; a list column has one of them among its values."""

    column: str
    values: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The column lies between bounds; None does not bound. For numbers and strings."""

    column: str
    at_least: Value | None = None
    above: Value | None = None
    at_most: Value | None = None
    below: Value | None = None


@dataclass(frozen=True, kw_only=True)
class AllOf:
    """Every one of these holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, kw_only=True)
class AnyOf:
    """At least one of these holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, kw_only=True)
class Not:
    """This does not hold."""

    filter: Filter


Filter: TypeAlias = Equal | In | Range | AllOf | AnyOf | Not


@dataclass(frozen=True, kw_only=True)
class Crowding:
    """At most `at_most` candidates for each value of `column`; those without a value do not crowd each other."""

    column: str
    at_most: int


@dataclass(frozen=True, kw_only=True)
class Restriction:
    """What narrows a search beside its query."""

    filter: Filter | None = None
    crowding: Crowding | None = None


UNRESTRICTED = Restriction()
