"""The two kinds of table a training reads, their columns, and every way in which they can be wrong.

Entities: `id` (string or int64, unique over all tables), `entity_type` (string, optional; "entity" when absent), the
text and vector features that the configuration names, any further columns. Pairs: `query` (string), `task` (string),
and the answer: `id` (of an entity) or, for a query-to-query task, `answer` (string); `weight` (float, optional, > 0).
Features that no entity table has are a mistake of the configuration, and so is a pair of a task that it does not name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import InvalidData
from retrieval.towers.features import FeatureSettings
from retrieval.towers.text import query_texts
from retrieval.training.config import Answer, TaskSettings
from retrieval.types import F32, I64, AnyArray

DEFAULT_TYPE = "entity"
_PAIR_COLUMNS = {"query", "task", "id", "answer", "weight"}


@dataclass(frozen=True, kw_only=True)
class EntityTable:
    """All entities of a training. types: object [n]; rows: id -> row."""

    table: pa.Table
    types: AnyArray
    rows: Mapping[Any, int]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def of_type(self, entity_type: str | None) -> I64:
        """Rows of one entity type, or all for None; InvalidData when there are none."""
        if entity_type is None:
            return np.arange(len(self), dtype=np.int64)
        rows = np.flatnonzero(self.types == entity_type)
        if len(rows) == 0:
            known = ", ".join(sorted(set(self.types))) or "none"
            raise InvalidData(f"no entity is of type {entity_type!r}: the tables have {known}")
        return rows


@dataclass(frozen=True, kw_only=True)
class TaskPairs:
    """Pairs of one task as numbers. answers: entity rows or query numbers; weights: float32 of mean 1."""

    queries: I64
    answers: I64
    weights: F32

    def __len__(self) -> int:
        return len(self.queries)


def read_entities(paths: Sequence[Path], features: FeatureSettings, *, vectors: Collection[str] = ()) -> EntityTable:
    """Entities of all tables; columns that only some have are null elsewhere.

    vectors: further vector columns that have to be there. InvalidData for a missing or repeated id, ids of two types,
    a named column that no table has, or an entity_type that is not a string.
    """
    tables = [read_table(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        require_columns(table, {"id"}, path, "entities")
    kinds = {str(table.schema.field("id").type) for table in tables}
    if not kinds <= {"string", "large_string"} and kinds != {"int64"}:
        raise InvalidData(f"entity ids are of type {' and '.join(sorted(kinds))}: they are all string or all int64")
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InvalidData(f"the entity tables do not fit together ({error}): give equal columns equal types") from None
    for name in (*features.texts, *features.vectors, *vectors):
        if name not in table.column_names:
            raise InvalidData(f"no entity table has the column {name!r}: they have {', '.join(table.column_names)}")
    ids = table.column("id").to_pylist()
    rows: dict[Any, int] = {}
    for row, entity in enumerate(ids):
        if entity is None:
            raise InvalidData(f"entity row {row} has no id: give each entity one")
        if rows.setdefault(entity, row) != row:
            raise InvalidData(f"entity {entity!r} is in the tables twice: keep one of its rows")
    if not rows:
        raise InvalidData("the entity tables have no rows: there is nothing to train on")
    if "entity_type" in table.column_names:
        kind = table.schema.field("entity_type").type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not _is_text(kind) and not pa.types.is_null(kind):
            raise InvalidData(f"column 'entity_type' is of type {kind}, it has to be string: cast it")
        types = [value or DEFAULT_TYPE for value in table.column("entity_type").to_pylist()]
    else:
        types = [DEFAULT_TYPE] * len(ids)
    return EntityTable(table=table, types=np.array(types, dtype=object), rows=rows)


def read_pairs(
    path: Path, tasks: Mapping[str, TaskSettings], entities: EntityTable, queries: dict[str, int]
) -> dict[str, TaskPairs]:
    """Pairs of each task.

    queries: normalised text -> number; new texts are added to it. InvalidData for unknown columns or tasks, a task
    without pairs, an absent entity, a missing answer, an empty query or a weight that is not above 0.
    """
    table = read_table(path)
    require_columns(table, {"query", "task"}, path, "pairs")
    unknown = sorted(set(table.column_names) - _PAIR_COLUMNS)
    if unknown:
        raise InvalidData(
            f"pairs {path} have the unknown column {unknown[0]!r}: they take {', '.join(sorted(_PAIR_COLUMNS))}"
        )
    check_types(table, path, entities)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    nothing = [None] * table.num_rows
    found: dict[str, list[tuple[int, int, float]]] = {name: [] for name in tasks}
    numbers: dict[str, int] = {}  # raw text -> number: each distinct text is normalised once
    for row, (query, task, entity, answer, weight) in enumerate(
        zip(
            columns["query"],
            columns["task"],
            columns.get("id", nothing),
            columns.get("answer", nothing),
            columns.get("weight", nothing),
            strict=True,
        )
    ):
        if task not in tasks:
            raise InvalidData(f"row {row} of {path} is of task {task!r}: the configuration has {', '.join(tasks)}")
        if weight is not None and not (0 < weight < float("inf")):
            raise InvalidData(f"row {row} of {path} has weight {weight}: weights are above 0 and finite")
        number = _number(query, row, path, numbers, queries)
        if tasks[task].answer is Answer.QUERY:
            target = _number(answer, row, path, numbers, queries)
        else:
            target = entities.rows.get(entity, -1)
            if target < 0:
                raise InvalidData(
                    f"row {row} of {path} names entity {entity!r}, which no entity table has: remove the pair"
                )
        found[task].append((number, target, 1.0 if weight is None else weight))
    return {name: _task_pairs(name, rows, path) for name, rows in found.items()}


def check_types(table: pa.Table, path: Path, entities: EntityTable) -> None:
    """InvalidData for a column of pairs that is of another type than its role, unless it is null throughout."""
    ids_are_text = _is_text(entities.table.schema.field("id").type)
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if field.name == "weight":
            fits, wanted = pa.types.is_floating(kind) or pa.types.is_integer(kind), "a number"
        elif field.name == "id" and not ids_are_text:
            fits, wanted = pa.types.is_int64(kind), "int64, as the ids of the entities are"
        elif field.name == "id":
            fits, wanted = _is_text(kind), "string, as the ids of the entities are"
        else:
            fits, wanted = _is_text(kind), "string"
        if not fits and not pa.types.is_null(kind):
            raise InvalidData(
                f"column {field.name!r} of {path} is of type {field.type}, it has to be {wanted}: cast it"
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _task_pairs(name: str, rows: list[tuple[int, int, float]], path: Path) -> TaskPairs:
    if not rows:
        raise InvalidData(f"task {name!r} has no pair in {path}: add some, or take it out of the configuration")
    weights = np.array([row[2] for row in rows])
    return TaskPairs(
        queries=np.array([row[0] for row in rows], dtype=np.int64),
        answers=np.array([row[1] for row in rows], dtype=np.int64),
        weights=(weights / weights.mean()).astype(np.float32),
    )


def _number(text: Any, row: int, path: Path, known: dict[str, int], queries: dict[str, int]) -> int:
    number = known.get(text) if isinstance(text, str) else None
    if number is None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidData(
                f"row {row} of {path} has no query text: every pair needs one (and a query answer where asked)"
            )
        normalised = query_texts([text])[0]
        number = known[text] = queries.setdefault(normalised, len(queries))
    return number


def read_table(path: Path) -> Any:
    """A Parquet table; InvalidData when it is absent or cannot be read."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise InvalidData(
            f"table {path} does not exist: prepare the data first, or correct the configuration"
        ) from None
    except (OSError, pa.ArrowInvalid) as error:
        raise InvalidData(f"table {path} cannot be read as Parquet ({str(error).splitlines()[0]})") from None


def require_columns(table: pa.Table, names: set[str], path: Path, kind: str) -> None:
    """InvalidData naming the first of `names` that the table lacks; kind: what the table holds, for the sentence."""
    missing = sorted(names - set(table.column_names))
    if missing:
        raise InvalidData(f"{kind} {path} have no column {missing[0]!r}: they have {', '.join(table.column_names)}")
