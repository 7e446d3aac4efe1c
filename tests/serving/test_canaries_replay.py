"""Canaries replayed by a server: what drifted is told by figure and by name, and old files still count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import SPACE, make_store, make_vectors

from retrieval.canaries import Canaries, judge, write_canaries
from retrieval.errors import DamagedData
from retrieval.serving.shards import LocalShard, open_shards
from retrieval.serving.swap.canaries import measure, read_canaries, replay
from retrieval.store import Generation
from retrieval.store.generation import CANARIES_FILE
from retrieval.topk import exact_search

N, D, C = 300, 8, 20


def words(texts: object) -> np.ndarray:
    """A tower of the space: the vector of "text 7" is row 7's."""
    return make_vectors(N, D, seed=1)[[int(text.split()[-1]) for text in texts]]


@pytest.fixture
def served(tmp_path: Path) -> tuple[Generation, list[LocalShard], Canaries]:
    """A generation with 20 canaries, the first half of them with a text."""
    made = make_store(tmp_path, N, D, 2, "string", seed=1, publish=False)
    queries = made.vectors[:C]
    rows, scores = exact_search(queries, made.vectors, 5, made.manifest.metric)
    texts = tuple(f"text {i}" if i < C // 2 else "" for i in range(C))
    ids = np.array(made.ids[rows], dtype=np.str_)
    stored = Canaries(queries=queries, scores=scores, ids=ids, texts=texts, space_id=SPACE)
    write_canaries(made.path / CANARIES_FILE, stored)
    generation = Generation(path=made.path, manifest=made.manifest)
    canaries = read_canaries(generation)
    assert canaries is not None
    return generation, open_shards(generation), canaries


def test_all_is_well(served):
    generation, shards, canaries = served
    report = replay(generation, shards, canaries, encode=words)
    assert (report.canaries, report.recall, report.texts_checked) == (C, 1.0, C // 2)
    assert report.lowest_cosine == pytest.approx(1, abs=1e-6)
    assert (report.worst, report.failure, report.good) == ("", "", True)


def test_a_swapped_tower_fails_by_its_texts(served):
    generation, shards, canaries = served

    def other(texts):
        return words(texts)[::-1]

    report = measure(generation, shards, canaries, encode=other)
    assert report.recall == 1.0
    assert report.lowest_cosine < 0.9
    assert "10 of 10 texts get another vector than the build's, the worst with cosine" in report.failure
    with pytest.raises(DamagedData, match=r"fails its canaries: 10 of 10 texts .*the checkpoint is another; roll back"):
        replay(generation, shards, canaries, encode=other)


@pytest.mark.parametrize(("cosine", "good"), [(0.99992, True), (0.9985, False)])
def test_bfloat16_passes_and_a_small_drift_does_not(served, cosine, good):
    generation, shards, canaries = served
    rng = np.random.default_rng(0)

    def drifted(texts):
        x = words(texts)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        away = rng.standard_normal(x.shape)
        away -= (away * x).sum(1, keepdims=True) * x
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        return (cosine * x + np.sqrt(1 - cosine**2) * away).astype(np.float32)

    assert measure(generation, shards, canaries, encode=drifted).good is good


@pytest.mark.parametrize("made", [np.full((C // 2, D), np.nan, np.float32), np.ones((C // 2, D + 1), np.float32)])
def test_a_tower_that_makes_no_vectors_fails(served, made):
    report = measure(*served, encode=lambda texts: made)
    assert report.lowest_cosine == -1.0
    assert not report.good


def test_ids_against_the_wrong_vectors_fail_although_all_scores_come_back(served):
    generation, _, canaries = served
    ids = np.roll(canaries.ids, 1, axis=0)
    moved = Canaries(queries=canaries.queries, scores=canaries.scores, ids=ids, texts=canaries.texts)
    report = measure(generation, open_shards(generation), moved)
    assert report.recall < 0.3  # at the cut, one of five, any entity with as good a score would do
    assert report.worst.startswith("canary ")
    assert "are needed (worst: canary" in report.failure


def test_a_shard_that_fails_is_told(served):
    generation, shards, canaries = served

    def broken(*_, **__):
        raise RuntimeError

    shards[1].search = broken
    report = measure(generation, shards, canaries)
    assert report.failure.startswith("shard-00001 (")
    assert not report.good
    with pytest.raises(DamagedData, match=r"fails its canaries: shard-00001 .* failed with RuntimeError"):
        replay(generation, shards, canaries)


def test_a_part_of_the_canaries(served):
    generation, shards, canaries = served
    report = measure(generation, shards, canaries.part([1, 15]), encode=words)
    assert (report.canaries, report.texts_checked, report.good) == (2, 1, True)


def test_the_older_file_without_ids_and_texts_is_read(tmp_path):
    made = make_store(tmp_path, 60, D, 2, canaries=True)
    generation = Generation.open(made.path)
    canaries = read_canaries(generation)
    assert (canaries.ids, canaries.texts, canaries.space_id) == (None, (), "")
    assert replay(generation, open_shards(generation), canaries, encode=words).recall == 1.0


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"queries": np.zeros((C, D), np.float32)}, "a query that is not finite or has norm 0"),
        ({"queries": np.ones((C, D + 1), np.float32)}, "one row each per canary"),
        ({"ids": np.array([["a"]])}, "ids or texts that do not fit its 20 queries"),
        ({"texts": np.array(["a"])}, "ids or texts that do not fit its 20 queries"),
        ({"ids": np.array([[object()]], dtype=object)}, "does not hold canaries: Object arrays cannot be loaded"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(served, changed, sentence):
    generation, _, canaries = served
    values = {"queries": canaries.queries, "scores": canaries.scores, "ids": canaries.ids, **changed}
    np.savez(generation.path / CANARIES_FILE, **values)
    with pytest.raises(DamagedData, match=sentence):
        read_canaries(generation)


@given(st.lists(st.sampled_from([0.9, 0.5, 0.5, 0.5, 0.1]), min_size=3, max_size=12), st.integers(1, 6), st.randoms())
def test_whichever_of_tied_entities_comes_at_the_cut_nothing_is_lost(values, k, random):
    values = sorted(values, reverse=True)
    entries = list(enumerate(values))
    stored = entries[:k]
    # the same ranking by another tie rule: only entities as good as the last may change places
    last = stored[-1][1]
    tied = [entry for entry in entries if entry[1] == last]
    random.shuffle(tied)
    found = ([entry for entry in entries if entry[1] > last] + tied)[:k]
    canaries = Canaries(
        queries=np.ones((1, 2), np.float32),
        scores=np.array([[score for _, score in stored]], np.float32),
        ids=np.array([[name for name, _ in stored]]),
    )
    ids, scores = np.array([name for name, _ in found]), np.array([score for _, score in found], np.float32)
    assert judge(canaries, [ids], [scores]).recall == 1.0
    # an entity that is gone, with a better score than the cut, is missed
    if stored[0][1] > last:
        assert judge(canaries, [ids[1:]], [scores[1:]]).recall < 1.0


def test_the_same_canaries_are_the_same_bytes(served, tmp_path):
    *_, canaries = served
    for name in ("a", "b"):
        write_canaries(tmp_path / name, canaries)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
