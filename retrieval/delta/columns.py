"""Attributes of fresh entities as columns of the generation they join; what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from retrieval.errors import InvalidQuery


def to_table(attributes: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of the schema's columns, a row for each entity, null where it has no value.

    InvalidQuery naming the column for one that the generation does not have, or a value that is not of its type.
    """
    known = set(schema.names)
    for given in attributes:
        for name in given:
            if name not in known:
                raise InvalidQuery(
                    f"there is no attribute {name!r} in the generation; there are: {', '.join(schema.names) or 'none'}"
                )
    columns = []
    for column in schema:
        values = [given.get(column.name) for given in attributes]
        try:
            columns.append(pa.array(values, column.type))
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise InvalidQuery(
                f"attribute {column.name!r} is {column.type}: one of {_shown(values)} is not of that type"
            ) from None
    return pa.table(columns, schema=pa.schema([(column.name, column.type) for column in schema]))


def fitting(attributes: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The same for what was accepted under another generation: what does not fit this one's columns is null."""
    try:
        return to_table(attributes, schema)
    except InvalidQuery:
        columns = [
            pa.array([_fitted(given.get(each.name), each.type) for given in attributes], each.type) for each in schema
        ]
        return pa.table(columns, schema=pa.schema([(column.name, column.type) for column in schema]))


def _fitted(value: Any, kind: pa.DataType) -> Any:
    try:
        return pa.array([value], kind)[0].as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _shown(values: list[Any]) -> str:
    shown = ", ".join(repr(value)[:40] for value in values[:3] if value is not None)
    return shown + (", …" if len(values) > 3 else "")
