"""What the untrained encoder makes of every entity, computed once and written beside the entities.

Two columns come of one pass: the pooled states, which the entity tower takes as a feature, and their projection to the
space of the zero-shot tower, the pre-existing embeddings that queries stay compatible with. Parts of a pass are kept as
they are finished, so that a killed run goes on. Knows nothing about pairs or training.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import InvalidData, StoreError
from retrieval.towers.checkpoint import CheckpointConfig, read_checkpoint, write_checkpoint
from retrieval.towers.encoder import Encoder, Precision
from retrieval.towers.entity_parts import unit
from retrieval.towers.features import EncodedText, vector_column, vector_values
from retrieval.towers.projection import fit_projection
from retrieval.towers.text import entity_text
from retrieval.types import F32

Progress = Callable[[str, int, int], None]

FROZEN_COLUMN = "zero_shot"
PART_ROWS = 4_096
# as many, and the same, as the trainer takes for its first weights: it starts in the space of the zero-shot tower, and
# the queries that it trains can stay there
_FIT_ROWS = 20_000


def add_states(entities: Path, encoder: Encoder, settings: EncodedText, *, work: Path, progress: Progress) -> None:
    """Give the table `entities` the column `settings.feature`: unit pooled states, null where there is no text.

    work: folder for finished parts; removed at the end. Nothing happens when the column is there.
    """
    table = pq.read_table(entities)
    if settings.feature in table.column_names:
        return
    texts = entity_text(table, settings.columns)
    reader = encoder.reading(settings.max_tokens).computing_in(Precision.AUTO)
    states = np.zeros((len(texts), encoder.hidden), dtype=np.float32)
    done = 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        progress(f"encode {entities.parent.name}", done, len(texts))

    for start in range(0, len(texts), PART_ROWS):
        part = work / f"{start:09d}.npy"
        chunk = texts[start : start + PART_ROWS]
        if part.is_file():
            states[start : start + len(chunk)] = np.load(part)
            count(len(chunk))
            continue
        there = [row for row, text in enumerate(chunk) if text]
        states[[start + row for row in there]] = unit(reader.encode([chunk[row] for row in there], on_batch=count))
        count(len(chunk) - len(there))
        _write_part(part, states[start : start + len(chunk)])
    column = vector_column(states, present=np.array([bool(text) for text in texts]))
    replace_table(entities, table.append_column(settings.feature, column))
    shutil.rmtree(work, ignore_errors=True)


def zero_shot_checkpoint(
    out: Path, tables: Sequence[Path], encoder: Encoder, settings: EncodedText, *, d: int, name: str
) -> CheckpointConfig:
    """The checkpoint of the tower before training: the encoder, and PCA of the entities' states to `d` dimensions.

    Written at `out` unless it is there. InvalidData when fewer than d entities have text.
    """
    if out.exists():
        return read_checkpoint(out).config
    column = settings.feature
    states, present = vector_values(
        shuffled([pq.read_table(path, columns=[column]) for path in tables]), column, encoder.hidden
    )
    sample = states[present][:_FIT_ROWS]
    if len(sample) < d:
        raise InvalidData(f"{len(sample)} entities with text are too few to fit {d} dimensions: give at least {d}")
    return write_checkpoint(
        out,
        encoder=encoder.reading(settings.max_tokens),
        projection=fit_projection(sample, d),
        text_columns=settings.columns,
        provenance={"encoder": name, "projection": f"uncentred PCA on {len(sample)} entities"},
    )


def add_frozen(entities: Path, settings: EncodedText, zero_shot: Path, *, hidden: int) -> None:
    """Give the table `entities` the column FROZEN_COLUMN: what the checkpoint `zero_shot` makes of each entity.

    Nothing happens when the column is there.
    """
    table = pq.read_table(entities)
    if FROZEN_COLUMN in table.column_names:
        return
    states, present = vector_values(table, settings.feature, hidden)
    projection = read_checkpoint(zero_shot).projection()
    vectors: F32 = np.zeros((len(states), projection.d), dtype=np.float32)
    if present.any():
        vectors[present] = projection.apply(states[present])
    replace_table(entities, table.append_column(FROZEN_COLUMN, vector_column(vectors, present=present)))


def shuffled(tables: Sequence[pa.Table]) -> pa.Table:
    """All rows in one order that mixes the tables and follows from their sizes: a sample of the first is fair."""
    whole = pa.concat_tables(tables, promote_options="permissive")
    return whole.take(pa.array(np.random.default_rng(0).permutation(whole.num_rows)))


def replace_table(path: Path, table: pa.Table) -> None:
    """Write a table at once or not at all; StoreError when it cannot be written."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _write_part(path: Path, states: F32) -> None:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.save(file, states)
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
