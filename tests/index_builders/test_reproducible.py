"""The same inputs and seeds give the same bytes in every file, however many processes built the shards."""

import pytest

from bench.data import clustered
from index_builders.rebuild.run import rebuild  # noqa: F401  # the rooms of a rebuild load beside those of a build
from retrieval.store import Store


@pytest.mark.parametrize(
    ("kind", "params"),
    [("flat", {}), ("hnsw", {}), ("ivfpq", {"pq_bits": 4, "nlist": 8})],
    ids=["flat", "hnsw", "ivfpq"],
)
def test_two_builds_with_other_worker_counts_are_the_same_bytes(write, run, tmp_path, kind, params):
    source = write(clustered(2_400, 16, seed=3, clusters=20, intrinsic=8), price=list(range(2_400)))
    made = [
        run(source, store=tmp_path / f"store{workers}", kind=kind, params=params, shards=3, workers=workers,
            min_recall=0.0).manifest
        for workers in (0, 2)
    ]  # fmt: skip
    assert made[0].files == made[1].files
    assert made[0].content_sha256 == made[1].content_sha256 != ""
    assert [shard.input_sha256 for shard in made[0].shards] == [shard.input_sha256 for shard in made[1].shards]
    assert not made[0].fast


def test_another_seed_gives_other_bytes(write, run, tmp_path):
    source = write(1_200)
    made = [run(source, store=tmp_path / f"s{seed}", kind="hnsw", seed=seed).manifest for seed in (0, 1)]
    assert made[0].content_sha256 != made[1].content_sha256


def test_fast_says_so_and_is_another_build(write, run, tmp_path):
    source = write(1_200)
    run(source, kind="hnsw")
    fast = run(source, kind="hnsw", fast=True)
    assert fast.built
    assert fast.manifest.fast
    assert Store(tmp_path / "store").current("pin") == fast.manifest.id
