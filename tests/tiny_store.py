"""Real generations small enough for any test, written with the package's own builders and store, without a build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from index_builders import flat, hnsw
from retrieval.params import BUILD_PARAMS, make_params
from retrieval.store import Manifest, ShardManifest, Store
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.generation import ARROW_ID_TYPES, CANARIES_FILE, ID_COLUMN, ROWS_FILE
from retrieval.store.manifest import MANIFEST_FILE, FrontierPoint, Quarantine
from retrieval.store.placement import PLACEMENT, shard_of
from retrieval.topk import exact_search, normalise
from retrieval.types import F32, AnyArray, IdType, IndexKind, Metric, VectorDtype

SPACE = "tiny-space"


@dataclass(frozen=True, kw_only=True)
class TinyGeneration:
    """What was written: row i of vectors (as stored) belongs to ids[i]."""

    path: Path
    manifest: Manifest
    ids: AnyArray
    vectors: F32


def make_ids(n: int, id_type: str, *, prefix: str = "e") -> AnyArray:
    """n ids in no order, int64 or object of str."""
    numbers = np.random.default_rng(11).permutation(n) * 7 - 3
    if id_type == "int64":
        return numbers.astype(np.int64)
    return np.array([f"{prefix}{number}" for number in numbers], object)


def make_vectors(n: int, d: int, *, seed: int = 0, distinct: int | None = None, metric: str = "cosine") -> F32:
    """n vectors [n, d] exact in float16; `distinct` of them differ, the rest repeat them, which makes heavy ties."""
    rng = np.random.default_rng(seed)
    few = rng.standard_normal((distinct or n, d)).astype(np.float32)
    x = few[rng.integers(0, len(few), n)] if distinct else few
    x = normalise(x) if metric == "cosine" else x
    return x.astype(np.float16).astype(np.float32)


def make_store(
    path: Path,
    n: int,
    d: int,
    shards: int,
    id_type: str = "int64",
    kind: str = "flat",
    *,
    entity_type: str = "pin",
    space_id: str = SPACE,
    metric: str = "cosine",
    vectors: F32 | None = None,
    ids: AnyArray | None = None,
    columns: dict[str, pa.Array] | None = None,
    frontier: list[FrontierPoint] | None = None,
    canaries: bool = False,
    seed: int = 0,
    publish: bool = True,
    delta_position: int = 0,
) -> TinyGeneration:
    """Add a generation to the store at `path` (made if need be) and publish it.

    columns: attribute columns [n] in the order of the rows; default a title per entity.
    """
    store = Store(path, create=True)
    x = make_vectors(n, d, seed=seed, metric=metric) if vectors is None else vectors
    ids = make_ids(n, id_type) if ids is None else ids
    columns = {"title": pa.array([f"{entity_type} {each}" for each in ids])} if columns is None else columns
    table = pa.table({ID_COLUMN: pa.array(ids, ARROW_ID_TYPES[IdType(id_type)]), **columns})
    digest = f"{seed + 16 * len(store.root.parts):08x}"
    generation = store.next_id(entity_type, digest)
    staged = store.staging(entity_type, digest)
    placed = shard_of(ids.tolist(), shards)
    parts = []
    for number in range(shards):
        rows = np.flatnonzero(placed == number)
        if len(rows) == 0:
            continue
        out = staged / f"shard-{len(parts):05d}"
        out.mkdir(parents=True)
        params = {"vectors": "float16", **({"m": 8, "ef_construction": 100} if kind == "hnsw" else {})}
        builder: Any = hnsw.build_shard if kind == "hnsw" else flat.build_shard
        typed = make_params(BUILD_PARAMS[IndexKind(kind)], params)
        report = builder(np.ascontiguousarray(x[rows]), out, params=typed, metric=Metric(metric), seed=0)
        _write_rows(table.take(rows).take(np.asarray(report.pop("order"))), out / ROWS_FILE)
        parts.append(ShardManifest(name=out.name, rows=len(rows), kind=IndexKind(kind), build_params=params, report={}))
    if canaries:
        best = exact_search(x[:4], x, min(5, n), Metric(metric))[1]
        np.savez(staged / CANARIES_FILE, queries=x[:4], scores=best)
    manifest = Manifest(
        id=generation,
        entity_type=entity_type,
        space_id=space_id,
        metric=Metric(metric),
        d=d,
        id_type=IdType(id_type),
        vector_dtype=VectorDtype.FLOAT16,
        placement=PLACEMENT,
        seed=seed,
        rows_in=n,
        delta_position=delta_position,
        rows=n,
        quarantine=Quarantine(),
        shards=parts,
        default_search={IndexKind(kind): {"ef": 64} if kind == "hnsw" else {}},
        frontier=frontier or [],
        library_versions={},
        created_at="2026-01-01T00:00:00+00:00",
        files=sha256_files(staged, list_files(staged)),
    )
    (staged / MANIFEST_FILE).write_bytes(manifest.to_bytes())
    folder = store.admit(staged, entity_type, generation)
    if publish:
        store.publish(entity_type, generation)
    return TinyGeneration(path=folder, manifest=manifest, ids=ids, vectors=x)


def _write_rows(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
