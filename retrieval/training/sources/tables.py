"""What every source writes: entities, and pairs split by query so that no held-out query or its pairs are trained on.

    OUT/entities.parquet              id, entity_type and features
    OUT/pairs.parquet                 to train on: query, task, id or answer, weight
    OUT/validation.parquet            likewise, of other queries
    OUT/test.parquet                  likewise, never looked at while training
    OUT/held_out.txt                  one line per held-out query or image, as `held_out_key` gives it

Which queries are held out follows from their text, or from the list of an earlier run. Knows nothing about models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import InvalidData, StoreError
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


def split_of(text: str, *, validation: float, test: float) -> Split:
    """The split of a query, from its text alone: equal texts, whatever their case, fall into the same one."""
    place = int(held_out_key(text), 16) / 16**16
    if place < test:
        return Split.TEST
    return Split.VALIDATION if place < test + validation else Split.TRAIN


def pair(
    query: str, task: str, *, entity: str | None = None, answer: str | None = None, weight: float = 1.0
) -> dict[str, Any]:
    """One row of a table of pairs."""
    return {"query": query, "task": task, "id": entity, "answer": answer, "weight": weight}


def write_source(
    out: Path, entities: pa.Table, pairs: Mapping[Split, Sequence[Mapping[str, Any]]], held_out: Iterable[str]
) -> None:
    """Write the tables of a source to the folder `out`; StoreError when it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        pq.write_table(entities, out / "entities.parquet", compression="zstd")
        for split in Split:
            rows = pa.Table.from_pylist(list(pairs.get(split, ())), schema=PAIRS)
            pq.write_table(rows, out / f"{split}.parquet", compression="zstd")
        (out / "held_out.txt").write_text("\n".join(sorted(set(held_out))) + "\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}") from error


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
