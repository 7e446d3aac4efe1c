"""One published generation as files: verified first, then read.

`Generation.open` is the only way to a shard's files, and it has checked every byte before it returns. Rows (ids and
attributes) are an Arrow IPC file, memory-mapped. Knows nothing about what an index file means.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from retrieval.errors import DamagedData, StoreError
from retrieval.store import checksums
from retrieval.store.manifest import MANIFEST_FILE, Manifest, ShardManifest
from retrieval.types import IdType

ROWS_FILE = "rows.arrow"
VECTORS_FILE = "vectors.npy"
CANARIES_FILE = "canaries.npz"
ID_COLUMN = "id"

ARROW_ID_TYPES = {IdType.STRING: pa.string(), IdType.INT64: pa.int64()}


@dataclass(frozen=True, kw_only=True)
class ShardFiles:
    """Where one shard's files are, and what the manifest says of it."""

    path: Path
    manifest: ShardManifest
    id_type: IdType

    def rows(self) -> pa.Table:
        """Ids (column "id") and attributes of the shard's rows in index order; DamagedData if they do not fit."""
        try:
            table = pa.ipc.open_file(pa.memory_map(str(self.path / ROWS_FILE))).read_all()
        except (pa.ArrowException, OSError) as error:
            raise DamagedData(f"{self.path / ROWS_FILE} is not an Arrow file: {error}") from error
        if table.num_rows != self.manifest.rows:
            raise DamagedData(
                f"{self.path / ROWS_FILE} has {table.num_rows} rows, the manifest says {self.manifest.rows}"
            )
        if ID_COLUMN not in table.column_names or table.schema.field(ID_COLUMN).type != ARROW_ID_TYPES[self.id_type]:
            raise DamagedData(f"{self.path / ROWS_FILE} has no id column of type {self.id_type}")
        return table


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generation whose every file has been checked against its manifest."""

    path: Path
    manifest: Manifest
    only: frozenset[str] | None = None  # names of the shards that were checked and are opened; None for all

    @classmethod
    def open(cls, path: Path, *, threads: int = 4, only: frozenset[str] | None = None) -> Generation:
        """Read the manifest, verify every file; StoreError when there is none, DamagedData when one byte is off.

        only: names of shards; the files of the others are neither read nor needed.
        """
        manifest = read_manifest(path)
        if only is None:
            checksums.verify(path, manifest.files, threads=threads)
        else:
            others = frozenset(shard.name for shard in manifest.shards) - only
            checksums.verify(path, manifest.files, threads=threads, without=others)
        return cls(path=path, manifest=manifest, only=only)

    @property
    def shards(self) -> list[ShardFiles]:
        """The shards in the manifest's order, of those that were checked."""
        return [
            ShardFiles(path=self.path / shard.name, manifest=shard, id_type=self.manifest.id_type)
            for shard in self.manifest.shards
            if self.only is None or shard.name in self.only
        ]


def read_manifest(path: Path) -> Manifest:
    """The manifest of the generation in folder `path`, itself checked; its files are not."""
    file = path / MANIFEST_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} holds no {MANIFEST_FILE}, so it is not a generation") from None
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error
    manifest = Manifest.from_bytes(data, where=str(file))
    if path.name != manifest.id:
        raise DamagedData(f"{file} is the manifest of generation {manifest.id}, not of {path.name}")
    return manifest
