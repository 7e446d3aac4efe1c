"""The shipped pins (Tate's collection): tags and boards as queries for the pins that carry them.

Nobody would learn anything from a query whose words are copied into its answer. So the tags and boards that are asked
about are taken out of the pins' text: held-out ones out of all pins, others out of a stated share of the pins, chosen
by a hash of pin and tag, while the rest keep them as text to learn from. Subjects that very many pins share are never
asked about, only read: most of their answers would be taken for negatives. An index keeps all tags of its pins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from retrieval import catalogue
from retrieval.errors import InvalidParams
from retrieval.training.sources.related import related_queries
from retrieval.training.sources.tables import Split, held_out_key, held_out_place, pair, split_of, write_source

TASK, RELATED_TASK = "tate", "related"
TAKEN = 0.5  # share of the pins that a trained tag is taken out of
MAX_SHARE = 0.05  # of all pins: more frequent subjects are not asked about
MIN_PINS = 2  # that carry a subject which is asked about
_VALIDATION, _TEST = 0.03, 0.07
_SUBJECTS = ("tags", "boards")


def pin_entities(pins: pa.Table) -> pa.Table:
    """Pins with the columns that a tower reads and `entity_type`, all tags kept: what an index is made of.

    pins: as `retrieval.catalogue.pins` gives them.
    """
    return pins.append_column("entity_type", pa.array(["pin"] * pins.num_rows))


def prepare_tate(
    out: Path, *, pins: int | None = None, taken: float = TAKEN, held_out: Collection[str] = ()
) -> dict[str, int]:
    """Tables of the shipped pins; returns the number of pairs per split. Split by query, that is by subject.

    pins: how many, spread evenly over the collection; None takes all. taken: share of the pins that a trained subject
    is taken out of. held_out: keys of subjects that are not trained on. InvalidParams for a share outside 0 to 1 or no
    pins, InvalidArgument when `out` exists.
    """
    if not 0 < taken <= 1:
        raise InvalidParams(f"taken = {taken} is not acceptable: a share is above 0 and at most 1")
    rows = pin_entities(catalogue.pins(pins)).drop_columns(["image_url", "url", "date"]).to_pylist()
    carriers: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for subject in _subjects(row):
            carriers[subject].append(row["id"])
    limit = max(MIN_PINS, int(MAX_SHARE * len(rows)))
    splits = {
        subject: split_of(subject, validation=_VALIDATION, test=_TEST, held_out=held_out)
        for subject, ids in carriers.items()
        if MIN_PINS <= len(ids) <= limit
    }
    asked: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        gone = {subject for subject in _subjects(row) if _is_taken(row["id"], subject, splits, taken)}
        for subject in gone:
            asked[subject].append(row["id"])
        for name in _SUBJECTS:
            row[name] = [value for value in row[name] or () if value.lower() not in gone]
    pairs: dict[Split, list[dict[str, Any]]] = {split: [] for split in Split}
    for subject in sorted(asked):
        # each subject counts by the root of its pins: all equal would leave frequent ones unlearned
        weight = len(asked[subject]) ** -0.5
        pairs[splits[subject]] += [pair(subject, TASK, entity=entity, weight=weight) for entity in asked[subject]]
    trained = {subject: ids for subject, ids in carriers.items() if splits.get(subject) is Split.TRAIN}
    pairs[Split.TRAIN] += [
        pair(subject, RELATED_TASK, answer=other, weight=overlap)
        for subject, other, overlap in related_queries(trained)
    ]
    held = {held_out_key(subject) for subject, split in splits.items() if split is not Split.TRAIN}
    write_source(out, _table(rows), pairs, held)
    return {str(split): len(found) for split, found in pairs.items()}


def _subjects(row: dict[str, Any]) -> dict[str, None]:
    return {value.lower(): None for name in _SUBJECTS for value in row[name] or ()}


def _is_taken(entity: str, subject: str, splits: dict[str, Split], taken: float) -> bool:
    split = splits.get(subject)
    if split is None:
        return False
    return split is not Split.TRAIN or held_out_place(f"{entity} {subject}") < taken


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    lists = {name: pa.array([row[name] for row in rows], pa.list_(pa.string())) for name in _SUBJECTS}
    texts = ("id", "entity_type", "title", "artist", "medium", "classification")
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in texts} | lists)
