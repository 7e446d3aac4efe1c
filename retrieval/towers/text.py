"""Text before it meets a tokenizer: the one normalisation, the limits of a query, the composition of an entity's text.

Training, embedding and serving all go through `normalise_text`; its name is part of every space id, so a change of it
is a change of space and not a silent skew. Knows nothing about tokens, tables' files or models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pyarrow as pa

from retrieval.errors import InvalidData, InvalidQuery

NORMALISATION = "nfkc-visible-1"  # change the number with any change of normalise_text
MAX_TEXT_CHARACTERS = 9_999  # of a query; the text of an entity is cut to it

# Columns that carry an entity's text, in the order in which they are joined. A tower reads the first tokens only, so
# what tells entities apart comes first and boards, which many entities share, come last.
TEXT_COLUMNS = ("title", "artist", "tags", "description", "boards")
_SEPARATOR = ". "

_JOINERS = "\u200c\u200d"  # format characters that carry meaning inside words of Persian, Hindi and others
_DROPPED = frozenset(("Cc", "Cf", "Cs"))  # control, format, lone surrogates (which no tokenizer can read)


def normalise_text(text: str) -> str:
    """`text` without control characters, in NFKC, white space collapsed to single spaces and stripped. Idempotent."""
    if not text.isprintable():
        # dropped before NFKC: what stood on both sides of a dropped character may compose
        text = "".join(c for c in text if c.isspace() or c in _JOINERS or unicodedata.category(c) not in _DROPPED)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    # joiners at the ends join nothing; with them gone, a text of nothing visible is empty
    return " ".join(text.split()).strip(" " + _JOINERS)


def query_texts(texts: Sequence[str]) -> list[str]:
    """Normalised query texts; InvalidQuery names the first that is empty, too long or not a string."""
    if isinstance(texts, str):
        raise InvalidQuery("queries come as a list of texts, this is one text: wrap it in a list")
    return [_query_text(text, place, len(texts)) for place, text in enumerate(texts)]


def _query_text(text: str, place: int, count: int) -> str:
    which = "query text" if count == 1 else f"query text {place} of {count}"
    if not isinstance(text, str):
        raise InvalidQuery(f"{which} is of type {type(text).__name__}: it has to be a string")
    if len(text) > MAX_TEXT_CHARACTERS:
        raise InvalidQuery(f"{which} has {len(text):,} characters, the limit is {MAX_TEXT_CHARACTERS:,}: shorten it")
    normalised = normalise_text(text)
    if not normalised:
        raise InvalidQuery(f"{which} is empty (or has white space and control characters only): write at least a word")
    return normalised


def entity_text(table: pa.Table, columns: Sequence[str] = TEXT_COLUMNS) -> list[str]:
    """One normalised text per row of `table`: its `columns` joined in that order; empty where a row has no text.

    Columns are strings or lists of strings; those the table lacks are left out, nulls and repetitions are skipped.
    InvalidData when the table has none of them, or one of another type.
    """
    present = [name for name in columns if name in table.column_names]
    if not present:
        raise InvalidData(
            f"no text column: the table has {', '.join(table.column_names) or 'no columns'}, the tower reads "
            f"{', '.join(columns)}; rename a column to one of these"
        )
    parts = [_column_texts(table.column(name), name) for name in present]
    return [_join(row) for row in zip(*parts, strict=True)]


def _join(values: Sequence[str]) -> str:
    # a description that repeats the title word for word would spend half of the tower's tokens on nothing new
    distinct = dict.fromkeys(normalise_text(value) for value in values)
    distinct.pop("", None)
    return _SEPARATOR.join(distinct)[:MAX_TEXT_CHARACTERS]


def _column_texts(column: pa.ChunkedArray, name: str) -> list[str]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [value or "" for value in column.to_pylist()]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    ):
        return [", ".join(item for item in value or () if item) for value in column.to_pylist()]
    raise InvalidData(f"column {name!r} is of type {kind}, a text column is string or list of string: cast it")
