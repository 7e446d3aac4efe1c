"""`check`: a verdict for every file of a generation, and for every shard as a whole.

Checksums come first; only a shard whose every byte is as the manifest says is opened. Changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.indexes import open_index
from retrieval.store import Generation, Manifest, checksums
from retrieval.store.generation import CANARIES_FILE, ID_COLUMN, read_manifest
from retrieval.store.manifest import MANIFEST_FILE


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was found about one file or one shard's structure; finding is "" when all is well."""

    name: str
    finding: str

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.finding


def check_generation(path: Path, *, threads: int = 4) -> list[Verdict]:
    """Verdicts on the manifest, every file and every shard of the generation in folder `path`."""
    try:
        manifest = read_manifest(path)
    except RetrievalError as error:
        return [Verdict(name=MANIFEST_FILE, finding=str(error))]
    verdicts = [Verdict(name=MANIFEST_FILE, finding="")]
    wrong = checksums.findings(path, manifest.files, threads=threads)
    verdicts += [Verdict(name=name, finding=wrong.get(name, "")) for name in sorted({*manifest.files, *wrong})]
    seen: set[object] = set()
    generation = Generation(path=path, manifest=manifest)
    for shard in generation.shards:
        name = shard.manifest.name
        if any(file.startswith(name + "/") for file in wrong):
            finding = "not opened, since a file of it is damaged"
        else:
            finding = _open_shard(generation, name, seen)
        verdicts.append(Verdict(name=f"{name} (structure)", finding=finding))
    if CANARIES_FILE not in wrong:
        verdicts.append(Verdict(name=f"{CANARIES_FILE} (structure)", finding=_open_canaries(path, manifest)))
    return verdicts


def _open_shard(generation: Generation, name: str, seen: set[object]) -> str:
    shard = next(shard for shard in generation.shards if shard.manifest.name == name)
    manifest = generation.manifest
    try:
        ids = shard.rows().column(ID_COLUMN).to_pylist()
        index = open_index(shard.manifest.kind, shard.path)
    except RetrievalError as error:
        return str(error)
    found, wanted = (index.n, index.d, index.metric), (shard.manifest.rows, manifest.d, manifest.metric)
    if found != wanted:
        return f"has (rows, dimensions, metric) {found}, the manifest says {wanted}"
    before = len(seen)
    seen.update(ids)
    if len(seen) != before + len(ids):
        return f"{before + len(ids) - len(seen)} ids appear more than once in this or an earlier shard"
    return ""


def _open_canaries(path: Path, manifest: Manifest) -> str:
    try:
        with np.load(path / CANARIES_FILE, allow_pickle=False) as file:
            shapes = {name: file[name].shape for name in ("queries", "ids", "scores")}
    except (OSError, ValueError, KeyError) as error:
        return f"cannot be read: {error}"
    if shapes["queries"][1:] != (manifest.d,) or shapes["ids"] != shapes["scores"]:
        return f"has shapes {shapes}, which do not fit {manifest.d} dimensions or each other"
    return ""
