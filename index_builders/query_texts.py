"""Query texts into query vectors, by the tower of a checkpoint: real queries for a build to measure with.

Texts come from a text file, one a line, or from a `text` or `query` column of Parquet or Arrow files. The vectors go
into a .npy file that a build takes as its `queries`. Knows nothing about indexes; loads torch only when called.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from index_builders.source_shape import read_space_id
from index_builders.staging import temporary_name, writing
from index_builders.tables import ARROW, PARQUET, list_tables, read_batches, read_schema
from retrieval.errors import InvalidData
from retrieval.spaces import check_compatible

_COLUMNS = ("text", "query")
_BATCH = 256


def encode_queries(
    texts: Path, checkpoint: Path, folder: Path, *, count: int, seed: int, source: Path, space_id: str | None = None
) -> Path:
    """At most `count` texts, drawn by `seed`, as a float32 [q, d] .npy in `folder`; returns its path.

    space_id: of the embeddings of `source`; None reads it from the source's metadata. Raises InvalidData for a file
    without texts, SpaceMismatch when the checkpoint's queries may not meet those embeddings.
    """
    from retrieval.towers.query import QueryTower

    found = read_texts(texts)
    if len(found) > count:
        chosen = np.sort(np.random.default_rng(seed).choice(len(found), size=count, replace=False))
        found = [found[i] for i in chosen]
    tower = QueryTower.load(checkpoint, threads=1)
    space = space_id or read_space_id(source)
    if space is not None:
        check_compatible(tower.space_id, space, tower.compatible)
    vectors = np.concatenate([tower.encode(found[first : first + _BATCH]) for first in range(0, len(found), _BATCH)])
    out = folder / f"{texts.stem}.npy"
    with writing(out):
        temporary = temporary_name(out)
        with temporary.open("wb") as file:
            np.save(file, vectors)
        temporary.replace(out)
    return out


def read_texts(path: Path) -> list[str]:
    """The query texts of a file or folder, in order, blank ones left out; InvalidData when there is none."""
    if path.is_file() and path.suffix not in PARQUET | ARROW:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidData(f"cannot read {path} as a text file with one query a line: {error}") from error
    else:
        lines = [text for file in list_tables(path) for text in _column(file)]
    found = [line.strip() for line in lines if line and line.strip()]
    if not found:
        raise InvalidData(f"{path} holds no query text")
    return found


def _column(file: Path) -> list[str]:
    names = read_schema(file).names
    wanted = next((name for name in _COLUMNS if name in names), None)
    if wanted is None:
        raise InvalidData(
            f"{file} has no column 'text' or 'query' of query texts; it has: {', '.join(names) or 'none'}"
        )
    return [str(text) for batch in read_batches(file, [wanted], 65_536) for text in batch.column(0).to_pylist() if text]
