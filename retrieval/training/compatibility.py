"""Do existing indexes keep working? A new query tower and the old one, on the frozen embeddings of the old space.

The embeddings are what `retrieval embed` writes: Parquet with `id` and `embedding`, one file or a folder of parts, the
space id in the schema's metadata. The new tower may meet them only if its checkpoint lists their space as compatible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.errors import InvalidData, SpaceMismatch
from retrieval.spaces import check_compatible
from retrieval.towers.checkpoint import Checkpoint
from retrieval.towers.features import vector_values
from retrieval.towers.query import QueryTower
from retrieval.training.questions import Corpus, Questions
from retrieval.training.rankings import VectorSystem
from retrieval.training.tables import read_table, require_columns
from retrieval.types import F32, Bool

NEW_ON_OLD, OLD_ON_OLD = "new query tower on old embeddings", "old query tower on old embeddings"

_EMBEDDING = "embedding"
_SPACE_KEY = b"space_id"


def old_space_systems(
    new: Checkpoint,
    old: Checkpoint,
    embeddings: Path,
    corpus: Corpus,
    questions: Sequence[Questions],
    *,
    threads: int | None = None,
) -> list[VectorSystem]:
    """The new and the old query tower over the same frozen embeddings; entities without one cannot be found.

    SpaceMismatch, naming both ids, when the new checkpoint does not list the old space or the embeddings are of a
    third one; InvalidData when they lack a column, or are of another dimension.
    """
    check_compatible(new.config.space_id, old.config.space_id, new.config.compatible)
    vectors = _read_embeddings(embeddings, old)
    answering = [asked for asked in questions if asked.rows is not None]
    if not answering:
        raise InvalidData("no task is answered by entities: old embeddings can only be asked for entities")

    def encode(table: pa.Table) -> tuple[F32, Bool]:
        found = [vectors.get(entity) for entity in table.column("id").to_pylist()]
        there = np.array([row is not None for row in found], dtype=bool)
        out = np.zeros((len(found), old.config.d), dtype=np.float32)
        if there.any():
            out[there] = np.stack([row for row in found if row is not None])
        return out, there

    return [
        VectorSystem(
            name,
            corpus,
            answering,
            encode_queries=QueryTower(checkpoint, threads=threads).encode,
            encode_entities=encode,
            d=old.config.d,
        )
        for name, checkpoint in ((NEW_ON_OLD, new), (OLD_ON_OLD, old))
    ]


def _read_embeddings(path: Path, old: Checkpoint) -> dict[object, F32]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise InvalidData(f"{path} has no Parquet file: name what `retrieval embed` wrote")
    out: dict[object, F32] = {}
    for file in files:
        table = read_table(file)
        require_columns(table, {"id", _EMBEDDING}, file, "embeddings")
        stated = (table.schema.metadata or {}).get(_SPACE_KEY, b"").decode()
        if stated and stated != old.config.space_id:
            raise SpaceMismatch(
                f"embeddings {file} are of space {stated}, checkpoint {old.path} is of {old.config.space_id}: name the "
                "checkpoint that made them"
            )
        vectors, there = vector_values(table, _EMBEDDING, old.config.d)
        out.update(zip(np.array(table.column("id").to_pylist(), dtype=object)[there], vectors[there], strict=True))
    return out
