"""The embedding table of a job: what the tower made of which content; only changed entities are embedded.

WORK/embeddings/<space>/part-<first content>.arrow holds content (SHA-256 of what the tower reads of a row, cut to 16
bytes) and embedding, under names that appear whole; a killed run continues behind its last part. Entities of the same
content share an embedding, and an id does not count. Knows nothing about indexes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from index_builders.staging import fsync, temporary_name, writing
from retrieval.towers.entity import EntityTower
from retrieval.types import F32

_CONTENT, _EMBEDDING = "content", "embedding"


def contents(table: pa.Table, columns: tuple[str, ...]) -> list[bytes]:
    """The content hash (16 bytes) of each row over those of `columns` that the table has."""
    names = sorted(set(columns) & set(table.column_names))
    values = [table.column(name).to_pylist() for name in names]
    rows = zip(*values, strict=True)
    return [
        hashlib.sha256(json.dumps([names, row], default=str, ensure_ascii=False).encode()).digest()[:16] for row in rows
    ]


class EmbeddingTable:
    """Embeddings by content. `add` collects rows and embeds a part's worth at a time; `flush` the rest."""

    def __init__(self, folder: Path, tower: EntityTower, *, part_rows: int) -> None:
        space = hashlib.sha256(f"{tower.space_id} {tower.precision}".encode()).hexdigest()[:16]
        self._folder, self._tower, self._part_rows = folder / space, tower, part_rows
        self._known: dict[bytes, tuple[int, int]] = {}
        self._parts: list[F32] = []
        self._waiting: dict[bytes, None] = {}
        self._tables: list[pa.Table] = []
        self.embedded = 0
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(self._folder.iterdir()):
                if path.suffix == ".arrow":
                    self._load(path)
                else:
                    path.unlink()  # of a run that was killed

    def add(self, table: pa.Table, hashes: list[bytes]) -> None:
        """Note rows that the tower can read, with their contents; those of unknown content will be embedded."""
        new: list[int] = []
        for row, content in enumerate(hashes):
            if content not in self._known and content not in self._waiting:
                self._waiting[content] = None
                new.append(row)
        if new:
            wanted = [name for name in table.column_names if name in self._tower.columns]
            self._tables.append(table.select(wanted).take(pa.array(new)))
        while len(self._waiting) >= self._part_rows:
            self._embed(self._part_rows)

    def flush(self) -> None:
        """Embed what is left."""
        if self._waiting:
            self._embed(len(self._waiting))

    def take(self, hashes: list[bytes]) -> F32:
        """Embeddings float32 [n, d] of contents [n] that were added and flushed."""
        out = np.empty((len(hashes), self._tower.d), dtype=np.float32)
        for row, content in enumerate(hashes):
            part, at = self._known[content]
            out[row] = self._parts[part][at]
        return out

    def _embed(self, rows: int) -> None:
        table = pa.concat_tables(self._tables)
        hashes = list(self._waiting)[:rows]
        vectors = self._tower.encode(table.slice(0, rows).combine_chunks())
        made = pa.table(
            {
                _CONTENT: pa.array(hashes, pa.binary(16)),
                _EMBEDDING: pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self._tower.d),
            }
        )
        path = self._folder / f"part-{hashes[0].hex()}.arrow"
        with writing(path):
            with pa.ipc.new_file(str(temporary_name(path)), made.schema) as sink:
                sink.write_table(made)
            fsync(temporary_name(path))
            temporary_name(path).replace(path)
            fsync(self._folder)
        self._load(path)
        self.embedded += rows
        self._waiting = dict.fromkeys(list(self._waiting)[rows:])
        self._tables = [table.slice(rows)] if self._waiting else []

    def _load(self, path: Path) -> None:
        # mapped: the embeddings are the system's to keep or drop
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        for row, content in enumerate(table.column(_CONTENT).to_pylist()):
            self._known[content] = (len(self._parts), row)
        flat = table.column(_EMBEDDING).combine_chunks().flatten().to_numpy(zero_copy_only=False)
        self._parts.append(flat.reshape(-1, self._tower.d))
