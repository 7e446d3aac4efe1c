"""What every source writes: entities, and pairs split by query so that no held-out query or its pairs are trained on.

    OUT/entities.parquet              id, entity_type and features
    OUT/pairs.parquet                 to train on: query, task, id or answer, weight
    OUT/validation.parquet            likewise, of other queries
    OUT/test.parquet                  likewise, never looked at while training
    OUT/held_out.txt                  one line per held-out query or image, as `held_out_key` gives it

Which queries are held out follows from their text, and from a stored list: what is on the list is never trained on,
even where the text alone would now say otherwise. Knows nothing about models.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import InvalidArgument, InvalidData, StoreError
from retrieval.towers.text import normalise_text
from retrieval.types import StrEnum

PAIRS = pa.schema(
    [
        ("query", pa.string()),
        ("task", pa.string()),
        ("id", pa.string()),
        ("answer", pa.string()),
        ("weight", pa.float32()),
    ]
)


class Split(StrEnum):
    """Parts of a data set."""

    TRAIN = "pairs"
    VALIDATION = "validation"
    TEST = "test"


def held_out_key(text: str) -> str:
    """16 hexadecimal digits that stand for a query or image, so that lists can be shared where texts cannot."""
    return hashlib.sha256(normalise_text(text).lower().encode()).hexdigest()[:16]


def held_out_place(text: str) -> float:
    """A number in 0 to 1 that follows from a text alone, whatever its case: what splits and samples are drawn by."""
    return int(held_out_key(text), 16) / 16**16


def split_of(text: str, *, validation: float, test: float, held_out: Collection[str] = ()) -> Split:
    """The split of a query, from its text alone: equal texts, whatever their case, fall into the same one.

    held_out: keys (`held_out_key`) that are never in the training split; those that would be are in the test split.
    """
    place = held_out_place(text)
    if place < test:
        return Split.TEST
    if place < test + validation:
        return Split.VALIDATION
    return Split.TEST if held_out_key(text) in held_out else Split.TRAIN


def pair(
    query: str, task: str, *, entity: str | None = None, answer: str | None = None, weight: float = 1.0
) -> dict[str, Any]:
    """One row of a table of pairs."""
    return {"query": query, "task": task, "id": entity, "answer": answer, "weight": weight}


def write_source(
    out: Path, entities: pa.Table, pairs: Mapping[Split, Sequence[Mapping[str, Any]]], held_out: Iterable[str]
) -> None:
    """Write the tables of a source to the new folder `out`, which appears when all of them are whole.

    InvalidArgument when `out` exists; StoreError when it cannot be written.
    """
    if out.exists():
        raise InvalidArgument(f"{out} exists already: remove it or choose another folder for the tables")
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        pq.write_table(entities, partial / "entities.parquet", compression="zstd")
        for split in Split:
            rows = pa.Table.from_pylist(list(pairs.get(split, ())), schema=PAIRS)
            pq.write_table(rows, partial / f"{split}.parquet", compression="zstd")
        (partial / "held_out.txt").write_text("".join(f"{key}\n" for key in sorted(set(held_out))), encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror or error}") from error


def read_source(path: Path, columns: Sequence[str]) -> pa.Table:
    """A table of the data folder; InvalidData when it is absent, unreadable or lacks a column."""
    try:
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise InvalidData(f"{path} does not exist: name the folder that holds the data sets with --data") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidData(
            f"{path} cannot be read with columns {', '.join(columns)} ({str(error).splitlines()[0]})"
        ) from None
