"""What is asked in an evaluation and what may answer: test pairs and entities as queries, ratings and candidates.

The tables are those of a training (`retrieval.training.tables`), with two differences: a weight is a rating, kept as it
is, and may be 0 (judged, not relevant); and distractors may join, entities that are searched and never correct. The
candidates of a task are all entities of the types that answer it and all distractors, in the order of their ids, so
that a tie goes to the smaller id whatever the order of the files. Knows nothing about towers or metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidData, InvalidParams
from retrieval.towers.features import FeatureSettings
from retrieval.towers.text import query_texts
from retrieval.training.tables import EntityTable, check_types, read_entities, read_table, require_columns
from retrieval.types import I64

MAX_RATING = 30.0  # the gain is 2^rating - 1

_COLUMNS = ("query", "task", "id", "answer", "weight")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All entities, the distractors last. first_distractor: row of the first of them."""

    entities: EntityTable
    first_distractor: int


@dataclass(frozen=True, kw_only=True)
class Questions:
    """One task: q distinct queries and n candidates.

    texts: normalised [q]; ratings: of each query, candidate number -> rating; rows: int64 [n] entity rows, or None
    where queries answer; answers: texts [n] of those; own: int64 [q], the candidate that is the query itself, or -1.
    """

    task: str
    texts: list[str]
    ratings: list[dict[int, float]]
    rows: I64 | None
    answers: list[str]
    own: I64

    @property
    def candidates(self) -> int:
        """How many are searched."""
        return len(self.answers) if self.rows is None else len(self.rows)


def read_corpus(entities: Sequence[Path], distractors: Sequence[Path] = ()) -> Corpus:
    """Entities of all tables; InvalidData as `read_entities` tells, also for an id that is in two tables."""
    # which columns are features is the tower's business: here only the id has to be there
    found = read_entities([*entities, *distractors], FeatureSettings(texts=("id",)))
    extra = sum(read_table(path).num_rows for path in distractors)
    return Corpus(entities=found, first_distractor=len(found) - extra)


def read_questions(
    path: Path, corpus: Corpus, *, tasks: Collection[str] = (), binary: bool = False
) -> dict[str, Questions]:
    """Questions of the tasks of a table of pairs, of all of them when `tasks` is empty.

    binary: every pair counts 1, whatever its weight. InvalidData for a task that the pairs do not have, an entity that
    is absent or a distractor, a weight that is no rating, a column of a wrong type, a task answered by both kinds or
    with nothing relevant.
    """
    table = read_table(path)
    require_columns(table, {"query", "task"}, path, "pairs")
    check_types(table.select([name for name in _COLUMNS if name in table.column_names]), path, corpus.entities)
    named = [name for name in table.column("task").to_pylist() if name is not None]
    known = sorted(set(named))
    if len(named) < table.num_rows or not known:
        raise InvalidData(f"pairs {path} have no rows, or rows without a task: give each pair one")
    for task in tasks:
        if task not in known:
            raise InvalidParams(f"task {task!r} has no pair in {path}: it has {', '.join(known)}")
    columns = table.column_names
    return {
        task: _questions(task, _rows_of(table, task, columns), path, corpus, binary=binary) for task in tasks or known
    }


def index_rows(questions: Sequence[Questions]) -> I64:
    """Ascending rows of all entities that any of the tasks searches."""
    rows = [found.rows for found in questions if found.rows is not None]
    return np.unique(np.concatenate(rows)) if rows else np.zeros(0, dtype=np.int64)


def _rows_of(table: pa.Table, task: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    wanted = [name for name in _COLUMNS if name in columns and name != "task"]
    numbered = table.select(wanted).append_column("row", pa.array(range(table.num_rows)))
    mask = pa.array([name == task for name in table.column("task").to_pylist()])
    rows: list[dict[str, Any]] = numbered.filter(mask).to_pylist()
    return rows


def _questions(task: str, pairs: Sequence[Mapping[str, Any]], path: Path, corpus: Corpus, *, binary: bool) -> Questions:
    by_query = [pair.get("answer") is not None for pair in pairs]
    if any(by_query) and not all(by_query):
        raise InvalidData(
            f"task {task!r} of {path} is answered by queries in some rows and by entities in others: make it two tasks"
        )
    texts: dict[str, int] = {}
    numbers = _normalised([pair["query"] for pair in pairs], pairs, path, texts)
    weights = [1.0 if binary else _rating(pair, path) for pair in pairs]
    if all(by_query):
        others: dict[str, int] = {}
        answered = _normalised([pair["answer"] for pair in pairs], pairs, path, others)
        answers = sorted(others)
        place = {text: number for number, text in enumerate(answers)}
        listed = list(others)
        targets = [place[listed[number]] for number in answered]
        rows, own = None, np.array([place.get(text, -1) for text in texts], dtype=np.int64)
    else:
        answers, own = [], np.full(len(texts), -1, dtype=np.int64)
        found = [_entity(pair, path, corpus) for pair in pairs]
        rows = _candidates(found, corpus)
        place_of = np.empty(len(corpus.entities), dtype=np.int64)
        place_of[rows] = np.arange(len(rows))
        targets = place_of[found].tolist()
    ratings: list[dict[int, float]] = [{} for _ in texts]
    for number, target, weight in zip(numbers, targets, weights, strict=True):
        if target != own[number]:  # a query is no answer to itself
            ratings[number][target] = max(weight, ratings[number].get(target, 0.0))
    if not any(weight > 0 for judged in ratings for weight in judged.values()):
        raise InvalidData(
            f"task {task!r} of {path} has no relevant pair (weight above 0): there is nothing to measure, add some"
        )
    return Questions(task=task, texts=list(texts), ratings=ratings, rows=rows, answers=answers, own=own)


def _candidates(answers: Sequence[int], corpus: Corpus) -> I64:
    """Rows that are searched, in the order of their ids."""
    entities = corpus.entities
    answering = set(entities.types[np.array(answers)])
    wanted = np.array([kind in answering for kind in entities.types], dtype=bool)
    wanted[corpus.first_distractor :] = True
    rows = np.flatnonzero(wanted)
    ids = entities.table.column("id").take(pa.array(rows)).to_pylist()
    order = sorted(range(len(rows)), key=ids.__getitem__)
    return np.asarray(rows[order], dtype=np.int64)


def _entity(pair: Mapping[str, Any], path: Path, corpus: Corpus) -> int:
    row = corpus.entities.rows.get(pair.get("id"), -1)
    if row < 0:
        raise InvalidData(
            f"row {pair['row']} of {path} names entity {pair.get('id')!r}, which no entity table has: remove the pair "
            "or add the entity"
        )
    if row >= corpus.first_distractor:
        raise InvalidData(
            f"row {pair['row']} of {path} names entity {pair['id']!r}, which is a distractor: distractors are never "
            "correct, name its table with --entities"
        )
    return row


def _rating(pair: Mapping[str, Any], path: Path) -> float:
    weight = pair.get("weight")
    if weight is None:
        return 1.0
    if not 0 <= weight <= MAX_RATING:
        raise InvalidData(
            f"row {pair['row']} of {path} has weight {weight}: a rating is 0 to {MAX_RATING:g}; where weights are no "
            "ratings, let every pair count 1 with --binary"
        )
    return float(weight)


def _normalised(
    values: Sequence[Any], pairs: Sequence[Mapping[str, Any]], path: Path, numbers: dict[str, int]
) -> list[int]:
    """Number of each text in `numbers`, to which new ones are added; each distinct text is normalised once."""
    known: dict[str, int] = {}
    out = []
    for value, pair in zip(values, pairs, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise InvalidData(f"row {pair['row']} of {path} has no query text: every pair needs one")
        if value not in known:
            known[value] = numbers.setdefault(query_texts([value])[0], len(numbers))
        out.append(known[value])
    return out
