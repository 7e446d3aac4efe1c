"""Canaries of a build: texts through the checkpoint, 256 of them, replayed before anything is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_tower import make_tiny_checkpoint

from index_builders.gate.canaries import read_texts, replay_built
from index_builders.gate.judge import judge
from retrieval.canaries import read_canaries
from retrieval.errors import BuildFailed, InvalidData, InvalidParams, SpaceMismatch
from retrieval.store import Generation, Store
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.manifest import MANIFEST_FILE
from retrieval.towers.query import QueryTower

D = 16
TEXTS = [f"{colour} {thing} {size}" for colour in ("red", "teal") for thing in ("shoe", "lamp") for size in range(20)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "c", d=D)


@pytest.fixture(scope="module")
def tower(checkpoint: Path) -> QueryTower:
    return QueryTower.load(checkpoint, threads=1)


@pytest.fixture
def source(tmp_path: Path, tower: QueryTower) -> Path:
    """Entities whose vectors are those of their titles."""
    titles = [f"{text} {i}" for i, text in enumerate(TEXTS * 5)]
    x = tower.encode(titles)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
    table = pa.table({"id": [f"e{i}" for i in range(len(x))], "embedding": flat, "title": titles})
    pq.write_table(table.replace_schema_metadata({"space_id": tower.space_id}), tmp_path / "source.parquet")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    return tmp_path / "source.parquet"


def mend(path: Path) -> None:
    """Make the checksums of a changed generation right again, as somebody might who copied a file into it."""
    manifest = Store(path.parents[2]).manifest("pin", path.name)
    changed = manifest.model_copy(update={"files": sha256_files(path, list_files(path))})
    (path / MANIFEST_FILE).write_bytes(changed.to_bytes())


def test_texts_come_first_and_items_fill_up(source, run, checkpoint, tower):
    report = run(source, canary_texts=source.parent / "texts.txt", checkpoint=checkpoint, shards=2)
    canaries = read_canaries(Generation.open(report.path))
    assert canaries.texts == (*TEXTS, *[""] * (256 - len(TEXTS)))
    assert canaries.queries.shape == (256, D)
    assert canaries.ids.shape == canaries.scores.shape == (256, 10)
    assert canaries.space_id == tower.space_id
    np.testing.assert_allclose(canaries.queries[: len(TEXTS)], tower.encode(TEXTS), atol=1e-6)
    assert canaries.name(0) == "canary 0 ('red shoe 0')"
    found = replay_built(report.path, encode=tower.encode)
    assert (found.good, found.recall, found.texts_checked, found.worst) == (True, 1.0, len(TEXTS), "")
    assert found.lowest_cosine == pytest.approx(1, abs=1e-5)


def test_the_same_texts_are_the_same_build_and_the_same_bytes(source, run, checkpoint, tmp_path):
    given = {"canary_texts": source.parent / "texts.txt", "checkpoint": checkpoint}
    first, again = run(source, **given), run(source, **given)
    assert not again.built
    other = run(source, **given, store=tmp_path / "other")
    assert first.manifest.files["canaries.npz"] == other.manifest.files["canaries.npz"]
    assert run(source).built  # without texts it is another generation


def test_without_texts_all_256_are_items(source, run):
    canaries = read_canaries(Generation.open(run(source).path))
    assert set(canaries.texts) == {""}
    assert (len(canaries.queries), canaries.space_id) == (256, "")


def test_a_swapped_tower_fails(source, run, checkpoint, tmp_path):
    report = run(source, canary_texts=source.parent / "texts.txt", checkpoint=checkpoint)
    other = QueryTower.load(make_tiny_checkpoint(tmp_path / "other", d=D, seed=1), threads=1)
    with pytest.raises(
        BuildFailed, match=r"fails its canaries: 80 of 80 texts get another vector than the build's, the worst with cos"
    ):
        replay_built(report.path, encode=other.encode)
    assert replay_built(report.path).good  # the answers themselves are as they were


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_swapped_vectors_file_with_mended_checksums_fails(source, run, kind):
    report = run(source, kind=kind)
    file = report.path / "shard-00000" / "vectors.npy"
    np.save(file, np.random.default_rng(0).permutation(np.load(file)))
    mend(report.path)
    generation = Generation.open(report.path)  # every checksum holds
    with pytest.raises(
        BuildFailed, match=r"fails its canaries: 0\.\d+ of the stored answers came back, 0.8 are needed"
    ):
        replay_built(report.path)
    assert "canaries" in {finding.limit for finding in judge(None, generation).findings}


def test_a_build_that_fails_its_canaries_publishes_nothing(source, run, monkeypatch, tmp_path):
    from index_builders import verify

    real = verify.write_canaries

    def wrong(path, canaries):
        real(path, type(canaries)(queries=canaries.queries, scores=canaries.scores, ids=canaries.ids[::-1]))

    first = run(source)
    monkeypatch.setattr(verify, "write_canaries", wrong)
    with pytest.raises(BuildFailed, match=r"fails its canaries: .*; it is not published, build it again"):
        run(source, seed=1)
    store = Store(tmp_path / "store")
    assert store.generations("pin") == [first.manifest.id]
    assert store.current("pin") == first.manifest.id


def test_bad_texts_and_checkpoints_are_refused_before_any_work(source, run, checkpoint, tmp_path):
    texts = source.parent / "texts.txt"
    with pytest.raises(InvalidParams, match="canary texts need the checkpoint that encodes queries: name it with"):
        run(source, canary_texts=texts)
    other = make_tiny_checkpoint(tmp_path / "other", d=D, seed=1)
    with pytest.raises(SpaceMismatch, match="cannot search an index of space"):
        run(source, canary_texts=texts, checkpoint=other)
    with pytest.raises(InvalidData, match=r"canary texts .*absent.txt do not exist: name a text file"):
        run(source, canary_texts=tmp_path / "absent.txt", checkpoint=checkpoint)
    assert not (tmp_path / "store/pin/generations").exists() or not Store(tmp_path / "store").generations("pin")


def test_at_most_256_texts_are_drawn_by_the_seed(tmp_path):
    (tmp_path / "many.txt").write_text("\n".join(f"text {i % 600}" for i in range(1_000)))
    drawn = read_texts(tmp_path / "many.txt", seed=1)
    assert len(set(drawn)) == 256
    assert drawn == read_texts(tmp_path / "many.txt", seed=1) != read_texts(tmp_path / "many.txt", seed=2)
    pq.write_table(pa.table({"text": ["a", None, " b ", "a"]}), tmp_path / "few.parquet")
    assert read_texts(tmp_path / "few.parquet") == ["a", "b"]
