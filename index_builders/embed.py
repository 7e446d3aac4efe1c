"""Entities into embeddings: a Parquet or Arrow dataset in, a folder of Parquet parts out, with the space id in each.

    OUT/part-00000.parquet     id, embedding (fixed_size_list<float32>[d]), every other column of the source
    OUT/_embed.json            the plan: source files by SHA-256, space id, rows per part
    OUT/_records/00000.json    what a finished part holds and the SHA-256 of its file

A part is a pure function of (plan, number), so parts may be made anywhere and in any order; a killed run continues with
the parts that have no record. Memory is bounded by one part. Knows nothing about indexes, nor where it runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index_builders import tables
from index_builders.source import SPACE_KEY
from index_builders.staging import fsync, hash_file, temporary_name, write_atomically, writing
from retrieval.errors import InvalidArgument, InvalidData, InvalidParams
from retrieval.params import MAX_DIM, MIN_DIM
from retrieval.towers.entity import EntityTower

EMBEDDING_COLUMN = "embedding"
PLAN_FILE = "_embed.json"
RECORDS = "_records"
DEFAULT_PART_ROWS = 2_048
MAX_PART_ROWS = 1_048_576
_EXAMPLES = 10

Progress = Callable[[str, int, int], None]  # (stage, done, total)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceFile(_Record):
    """One file of the source."""

    path: Path
    rows: int = Field(ge=0)
    sha256: str


class EmbedPlan(_Record):
    """All that a part depends on, besides the tower of `space_id`."""

    version: Literal[1] = 1
    out: Path
    space_id: str
    d: int = Field(ge=MIN_DIM, le=MAX_DIM)
    id_column: str
    text_columns: tuple[str, ...]
    precision: str = "float32"  # of the text encoder: parts of two precisions do not go together
    part_rows: int = Field(ge=1, le=MAX_PART_ROWS)
    files: tuple[SourceFile, ...]

    @property
    def slices(self) -> list[tuple[SourceFile, int, int]]:
        """File, first row and number of rows of each part, in order."""
        return [
            (file, start, min(self.part_rows, file.rows - start))
            for file in self.files
            for start in range(0, file.rows, self.part_rows)
        ]

    @property
    def rows(self) -> int:
        """Rows of the source."""
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> str:
        """Hash of what shapes the parts; where files lie does not."""
        content = self.model_dump(mode="json", exclude={"out"})
        content["files"] = [file.sha256 for file in self.files]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class PartReport(_Record):
    """What one part holds. without_text: rows left out because they have no text, with a few of their ids."""

    plan: str
    number: int
    rows: int
    without_text: int
    examples: list[str]
    sha256: str


class EmbedReport(_Record):
    """What a finished run made. resumed: parts that an earlier run had finished."""

    out: Path
    space_id: str
    parts: int
    resumed: int
    rows: int
    without_text: int
    examples: list[str]


def plan_embedding(
    tower: EntityTower, entities: Path, out: Path, *, id_column: str = "id", part_rows: int = DEFAULT_PART_ROWS
) -> EmbedPlan:
    """Look at the source (a Parquet or Arrow file or a folder of them) and say what will be made of it.

    InvalidData for a source that cannot be read, is empty, lacks the id column or any text column, or has a column
    named `embedding` already; InvalidParams for part_rows outside 1 to 1,048,576.
    """
    if not 1 <= part_rows <= MAX_PART_ROWS:
        raise InvalidParams(f"part_rows = {part_rows} is not acceptable: a part has 1 to {MAX_PART_ROWS:,} rows")
    found = tables.list_tables(Path(entities))
    first = tables.read_schema(found[0])
    for file in found:
        _check_schema(tables.read_schema(file), first, file, found[0], id_column=id_column, tower=tower)
    plan = EmbedPlan(
        out=Path(out),
        space_id=tower.space_id,
        d=tower.d,
        id_column=id_column,
        text_columns=tower.text_columns,
        precision=tower.precision,
        part_rows=part_rows,
        files=tuple(
            SourceFile(path=file.resolve(), rows=tables.count_rows(file), sha256=hash_file(file)) for file in found
        ),
    )
    if plan.rows == 0:
        raise InvalidData(f"{entities} has no rows: there is nothing to embed")
    return plan


def embed_part(
    plan: EmbedPlan, number: int, tower: EntityTower, *, on_batch: Callable[[int], None] | None = None
) -> PartReport:
    """Make part `number` of the plan and put it on record. on_batch is told how many texts each forward pass finished.

    InvalidData when the source cannot be read, StoreError when the part cannot be written.
    """
    if tower.space_id != plan.space_id:
        raise InvalidArgument(f"the plan is for space {plan.space_id}, the tower makes {tower.space_id}: plan again")
    file, start, count = plan.slices[number]
    table = pa.Table.from_batches(list(_read_rows(file.path, start, count)))
    if table.num_rows != count:
        raise InvalidData(f"{file.path} has fewer rows than when it was planned: run the embedding again")
    there = tower.present(table).tolist()
    kept = [row for row, found in enumerate(there) if found]
    missing = [row for row, found in enumerate(there) if not found]
    examples = [str(table.column(plan.id_column)[row].as_py()) for row in missing[:_EXAMPLES]]
    source = table.take(pa.array(kept, pa.int64()))
    vectors = tower.encode(source, on_batch=on_batch)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), plan.d)
    others = [name for name in table.column_names if name != plan.id_column]
    table = source.select([plan.id_column, *others])
    table = table.add_column(1, EMBEDDING_COLUMN, embedding).replace_schema_metadata(
        {SPACE_KEY: plan.space_id.encode()}
    )
    path = _part_file(plan, number)
    with writing(path):
        _record_file(plan, number).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary_name(path), compression="zstd")
        fsync(temporary_name(path))
        temporary_name(path).replace(path)
        report = PartReport(
            plan=plan.digest,
            number=number,
            rows=len(kept),
            without_text=len(missing),
            examples=examples,
            sha256=hash_file(path),
        )
        write_atomically(_record_file(plan, number), report.model_dump_json().encode())
    return report


def finished_part(plan: EmbedPlan, number: int) -> PartReport | None:
    """The record of a part if it is of this plan and its file is unchanged, else None."""
    report = _read_json(_record_file(plan, number), PartReport)
    path = _part_file(plan, number)
    if report is None or report.plan != plan.digest or not path.is_file() or hash_file(path) != report.sha256:
        return None
    return report


def embed(plan: EmbedPlan, tower: EntityTower, *, progress: Progress | None = None) -> EmbedReport:
    """Make every part that is not finished yet, here and one after another.

    progress: (stage, rows done, rows). InvalidArgument when the folder holds something else or the parts of another
    plan; InvalidData when no row has any text.
    """
    _claim(plan)
    done = resumed = 0
    reports = []

    def count(texts: int) -> None:
        nonlocal done
        done += texts
        if progress is not None:
            progress("embed", done, plan.rows)

    for number in range(len(plan.slices)):
        report = finished_part(plan, number)
        if report is None:
            report = embed_part(plan, number, tower, on_batch=count)
            count(report.without_text)
        else:
            resumed += 1
            count(report.rows + report.without_text)
        reports.append(report)
    rows = sum(report.rows for report in reports)
    if rows == 0:
        raise InvalidData(f"no row of {plan.files[0].path} has text in {', '.join(plan.text_columns)}")
    return EmbedReport(
        out=plan.out,
        space_id=plan.space_id,
        parts=len(reports),
        resumed=resumed,
        rows=rows,
        without_text=sum(report.without_text for report in reports),
        examples=[example for report in reports for example in report.examples][:_EXAMPLES],
    )


def _check_schema(
    schema: pa.Schema, first: pa.Schema, file: Path, first_file: Path, *, id_column: str, tower: EntityTower
) -> None:
    if schema.names.count(id_column) != 1:
        raise InvalidData(
            f"{file} has no column {id_column!r} for the ids; it has: {', '.join(schema.names) or 'none'}"
        )
    tables.id_type(schema.field(id_column).type, file, id_column)
    if EMBEDDING_COLUMN in schema.names:
        raise InvalidData(f"{file} has a column {EMBEDDING_COLUMN!r} already: drop or rename it")
    if not schema.equals(first):
        raise InvalidData(f"{file} has other columns than {first_file}: the files of one source are one table")
    tower.present(schema.empty_table())  # says which columns are missing or of a wrong type


def _claim(plan: EmbedPlan) -> None:
    found = _read_json(plan.out / PLAN_FILE, EmbedPlan)
    if found is not None and found.digest != plan.digest:
        raise InvalidArgument(
            f"{plan.out} holds embeddings of another source, space, precision or part size: remove it or choose "
            "another folder"
        )
    with writing(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
        if found is None and any(not entry.name.endswith(".tmp") for entry in plan.out.iterdir()):
            raise InvalidArgument(f"{plan.out} holds files that are no embeddings: choose another folder")
        for leftover in [*plan.out.glob("*.tmp"), *plan.out.glob(f"{RECORDS}/*.tmp")]:
            leftover.unlink(missing_ok=True)
        if found is None:
            write_atomically(plan.out / PLAN_FILE, plan.model_dump_json(indent=1).encode())


def _read_rows(file: Path, start: int, count: int) -> Iterator[pa.RecordBatch]:
    """Rows start .. start + count of a file; of Parquet, only the row groups that hold them are decoded."""
    position, groups = 0, None
    if file.suffix in tables.PARQUET:
        position, groups = _row_groups(file, start, start + count)
    for batch in _batches(file, groups, count):
        low, high = max(start - position, 0), min(start + count - position, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        position += batch.num_rows
        if position >= start + count:
            return


def _batches(file: Path, groups: list[int] | None, rows: int) -> Iterator[pa.RecordBatch]:
    if groups is None:
        yield from tables.read_batches(file, None, rows)
        return
    try:
        with pq.ParquetFile(file) as parquet:
            yield from parquet.iter_batches(batch_size=rows, row_groups=groups)
    except (pa.ArrowException, OSError) as error:
        raise InvalidData(f"cannot read {file}: {str(error).splitlines()[0]}") from error


def _row_groups(file: Path, start: int, stop: int) -> tuple[int, list[int]]:
    """First row of, and numbers of, the row groups that hold rows start .. stop."""
    metadata = pq.read_metadata(file)
    first = position = 0
    groups: list[int] = []
    for number in range(metadata.num_row_groups):
        rows = metadata.row_group(number).num_rows
        if position + rows > start and position < stop:
            first = first if groups else position
            groups.append(number)
        position += rows
    return first, groups


def _part_file(plan: EmbedPlan, number: int) -> Path:
    return plan.out / f"part-{number:05d}.parquet"


def _record_file(plan: EmbedPlan, number: int) -> Path:
    return plan.out / RECORDS / f"{number:05d}.json"


_R = TypeVar("_R", bound=BaseModel)


def _read_json(path: Path, kind: type[_R]) -> _R | None:
    """None when there is no such file or it is not whole: its part is then made again."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
