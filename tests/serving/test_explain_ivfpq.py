"""What becomes of entities that an IVF-PQ search loses: the list that was not visited, the code that ranked too low."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny_store import SPACE, TinyGeneration, make_store

from bench.data import clustered, clustered_queries
from index_builders import ivfpq
from retrieval.indexes import open_index
from retrieval.kernel import reference
from retrieval.params import IvfpqBuild
from retrieval.serving.calls import Effort, EntityQuery, GenerationDescription, VectorQuery, Wanted
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.engine import Engine
from retrieval.serving.explaining.verdict import Explanation, Verdict
from retrieval.serving.rankings import Served
from retrieval.serving.rows import Rows
from retrieval.serving.shards import LocalShard
from retrieval.store import Manifest, ShardManifest
from retrieval.store.generation import ID_COLUMN
from retrieval.types import IdType, IndexKind, Metric


def vector(values: np.ndarray) -> VectorQuery:
    return VectorQuery(values=np.asarray(values, np.float32), space_id=SPACE)


def explained(of: Served, xq: np.ndarray, entity: Any, **wanted: Any) -> Explanation:
    asked = EntityQuery(entity_type="pin", id=entity if isinstance(entity, str) else int(entity))
    return Engine({"pin": of}).explain(vector(xq), asked, Wanted(**wanted))


def best_first(made: TinyGeneration, xq: np.ndarray) -> np.ndarray:
    """Places of all rows in the tie order, in the kernel's arithmetic."""
    every = np.arange(len(made.ids), dtype=np.int32)[None]
    scores = reference.score(made.vectors, xq[None], every, Metric.COSINE)[0]
    return np.lexsort((made.ids, -scores))


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> tuple[Served, TinyGeneration]:
    """One IVF-PQ shard of 2,000 rows in 20 lists, described by a manifest of the same rows."""
    root = tmp_path_factory.mktemp("lists")
    x = clustered(2_000, 32, seed=2, clusters=50, intrinsic=16)
    build = ivfpq.resolve(IvfpqBuild(nlist=20, vectors="float32"), rows=len(x), shards=1, d=32)
    trained = ivfpq.train(x, root, params=build, metric=Metric.COSINE, seed=1)
    report = ivfpq.build_shard(x, root, params=build, metric=Metric.COSINE, seed=1, trained=trained)
    x, ids = x[report["order"]], np.arange(2_000, dtype=np.int64) * 3
    rows = Rows(pa.table({ID_COLUMN: ids}), IdType.INT64, where="test")
    shard = LocalShard("shard-00000", open_index(IndexKind.IVFPQ, root), rows, x)
    other = make_store(root / "store", 20, 32, 1).manifest
    part = ShardManifest(name="shard-00000", rows=2_000, kind=IndexKind.IVFPQ, build_params={})
    manifest: Manifest = other.model_copy(update={"shards": [part], "rows": 2_000, "default_search": {}})
    of = Served(about=GenerationDescription(manifest=manifest), shards=(shard,), efforts=Efforts(manifest))
    return of, TinyGeneration(path=root, manifest=manifest, ids=ids, vectors=x)


def missed(lists: tuple[Served, TinyGeneration], effort: Effort, k: int) -> tuple[np.ndarray, int]:
    """A query and the id of one of its k best that a search misses."""
    of, made = lists
    engine = Engine({"pin": of})
    for xq in clustered_queries(100, 32, seed=2, clusters=50, intrinsic=16):
        ids = engine.search(vector(xq), Wanted(k=k, effort=effort)).rankings[0].ids.tolist()
        lost = [int(made.ids[place]) for place in best_first(made, xq)[:k] if made.ids[place] not in ids]
        if lost:
            return xq, lost[0]
    pytest.fail(f"{effort} misses none of the {k} best of 100 queries")


def test_list_not_probed_tells_the_nprobe_that_would_do(lists: tuple[Served, TinyGeneration]) -> None:
    effort = Effort(nprobe=1, rescore=2_000)
    xq, entity = missed(lists, effort, 10)
    found = explained(lists[0], xq, entity, k=10, effort=effort)
    assert found.verdict is Verdict.LIST_NOT_PROBED
    assert found.shard is not None
    assert found.shard.nprobe == 1
    assert found.shard.list_rank is not None
    assert found.shard.list_rank > 1
    assert found.shard.approximate_rank is None
    enough = Effort(nprobe=found.shard.list_rank, rescore=2_000)
    assert explained(lists[0], xq, entity, k=10, effort=enough).verdict is Verdict.RETURNED
    less = Effort(nprobe=found.shard.list_rank - 1, rescore=2_000)
    assert explained(lists[0], xq, entity, k=10, effort=less).verdict is Verdict.LIST_NOT_PROBED


def test_lost_in_pq_tells_the_rescore_that_would_do(lists: tuple[Served, TinyGeneration]) -> None:
    effort = Effort(nprobe=20, rescore=1)
    xq, entity = missed(lists, effort, 2)
    found = explained(lists[0], xq, entity, k=2, effort=effort)
    assert found.verdict is Verdict.LOST_IN_PQ
    assert found.shard is not None
    assert found.shard.pool == 2
    assert found.shard.approximate_rank is not None
    assert found.shard.approximate_rank > 2
    assert f"its compressed code ranks {found.shard.approximate_rank} in shard-00000, 2 were rescored" in found.reason
    enough = Effort(nprobe=20, rescore=found.shard.approximate_rank)
    assert explained(lists[0], xq, entity, k=2, effort=enough).verdict is Verdict.RETURNED
