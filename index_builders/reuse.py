"""Shards that need not be built: an earlier generation has one that was made from the very same input.

The input of a shard is a digest over its rows and vectors in order, kind, parameters, metric, seed, trained quantizer
and library versions; a build with one thread per shard turns the same input into the same bytes, so their files are
linked instead. Knows nothing about stages or sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders.plan import Plan
from index_builders.staging import hash_file
from retrieval.errors import DamagedData, RetrievalError
from retrieval.store import ShardManifest, Store
from retrieval.store.checksums import sha256_file
from retrieval.store.generation import ID_COLUMN, ROWS_FILE
from retrieval.store.manifest import FileEntry
from retrieval.types import I64


@dataclass(frozen=True, kw_only=True)
class Built:
    """A shard of an earlier generation: its folder, what the manifest says of it, and the entries of its files."""

    generation: str
    path: Path
    manifest: ShardManifest
    files: dict[str, FileEntry]


def input_digests(plan: Plan, contents: Sequence[str], quantizer: Path) -> list[str]:
    """SHA-256 of the input of every shard. contents: of its rows and vectors, as `spool` reports them."""
    trained = hash_file(quantizer) if quantizer.exists() else ""
    return [
        hashlib.sha256(
            json.dumps(
                [
                    content,
                    str(plan.kind),
                    plan.params,
                    str(plan.metric),
                    plan.seed + shard,
                    trained,
                    plan.fast,
                    plan.library_versions,
                ],
                sort_keys=True,
            ).encode()
        ).hexdigest()
        for shard, content in enumerate(contents)
    ]


def find_built(store: Store, entity_type: str) -> dict[str, Built]:
    """Every shard of the store's generations that can be read, by its input; the newest where there are several."""
    found: dict[str, Built] = {}
    for generation in store.generations(entity_type):
        try:
            manifest, path = store.manifest(entity_type, generation), store.generation_path(entity_type, generation)
        except RetrievalError:
            continue  # damaged or of another version: nothing is taken from it
        for shard in manifest.shards:
            if not shard.input_sha256:
                continue
            prefix = f"{shard.name}/"
            files = {name[len(prefix) :]: entry for name, entry in manifest.files.items() if name.startswith(prefix)}
            found[shard.input_sha256] = Built(
                generation=generation, path=path / shard.name, manifest=shard, files=files
            )
    return found


def link(built: Built, out: Path) -> None:
    """Link (or copy, across file systems) the files of a shard into the folder `out`, every byte checked.

    DamagedData when a file is not what the manifest says; OSError when the disk refuses.
    """
    for name, entry in built.files.items():
        target = out / name
        try:
            os.link(built.path / name, target)
        except FileNotFoundError:
            raise DamagedData(f"{built.path / name} is missing") from None
        except OSError:
            shutil.copyfile(built.path / name, target)
        if sha256_file(target) != entry:
            raise DamagedData(f"{built.path / name} does not match its SHA-256")


def order_of(out: Path, spooled: pa.Table) -> I64:
    """Which spooled row each row of the linked shard in `out` is: int64 [n]."""
    with pa.memory_map(str(out / ROWS_FILE)) as file:
        ids = pa.ipc.open_file(file).read_all().column(ID_COLUMN)
        rows = pc.index_in(ids, value_set=spooled.column(ID_COLUMN).combine_chunks())
        return np.asarray(rows.to_numpy(), dtype=np.int64)
