"""A text's vector depends on the text alone, not on its batch, the threads or who else asks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tower import make_tiny_checkpoint, tiny_encoder

from retrieval.errors import DamagedData, InvalidData, InvalidParams, InvalidQuery
from retrieval.towers.entity import EntityTower
from retrieval.towers.projection import Projection, fit_projection
from retrieval.towers.query import QueryTower

WORDS = st.text("abcdefgh ", min_size=1, max_size=60)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tower") / "checkpoint")


@settings(deadline=None, max_examples=40)
@given(st.lists(WORDS, min_size=2, max_size=150), st.integers(0, 10_000))
def test_batch_composition_does_not_change_a_vector(texts: list[str], pick: int) -> None:
    encoder = tiny_encoder()
    row = pick % len(texts)
    together = encoder.encode(texts, threads=1)
    alone = encoder.encode([texts[row]], threads=1)
    np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_threads_change_neither_order_nor_vectors() -> None:
    encoder = tiny_encoder()
    texts = ["abc " * (number % 17) + str(number) for number in range(700)]
    seen: list[int] = []
    before = torch.get_num_threads()
    parallel = encoder.encode(texts, threads=3, on_batch=seen.append)
    assert torch.get_num_threads() == before
    assert sum(seen) == 700
    np.testing.assert_allclose(parallel, encoder.encode(texts, threads=1), atol=1e-5)
    assert encoder.encode([]).shape == (0, encoder.hidden)


@pytest.mark.parametrize("threads", [1, 3])
def test_texts_beyond_one_window_keep_their_rows(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    texts = ["abc " * (number % 7) + str(number) for number in range(300)]
    whole = tiny_encoder().encode(texts, threads=1)
    monkeypatch.setattr("retrieval.towers.encoder._WINDOW_TEXTS", 70)
    np.testing.assert_allclose(tiny_encoder().encode(texts, threads=threads), whole, atol=1e-5)


def test_only_the_first_tokens_are_read() -> None:
    encoder = tiny_encoder(max_tokens=8)
    same = encoder.encode(["a b c d e f g h i", "a b c d e f x y z"])
    np.testing.assert_allclose(same[0], same[1], atol=1e-6)
    with pytest.raises(InvalidParams, match=r"max_tokens = 65 is not acceptable: this encoder takes 4 to 64"):
        tiny_encoder(max_tokens=65)


def test_query_tower(checkpoint: Path) -> None:
    tower = QueryTower.load(checkpoint, threads=1)
    vectors = tower.encode(["Gaming  laptop", "gaming laptop", "ﬂashlight"])
    assert vectors.shape == (3, 256)
    assert vectors.dtype == np.float32
    assert (tower.d, str(tower.metric), tower.compatible) == (256, "cosine", ())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    assert tower.encode([]).shape == (0, 256)
    with pytest.raises(InvalidQuery, match=r"query text 1 of 2 is empty"):
        tower.encode(["a", ""])
    with pytest.raises(InvalidParams, match=r"threads = 0 is not acceptable"):
        QueryTower.load(checkpoint, threads=0)


def test_many_threads_may_share_a_tower(checkpoint: Path) -> None:
    tower = QueryTower.load(checkpoint, threads=1)
    texts = [f"query {number}" for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda text: tower.encode([text])[0], texts))
    np.testing.assert_allclose(np.stack(found), tower.encode(texts), atol=1e-5)


def test_entities_and_queries_of_equal_text_meet(checkpoint: Path) -> None:
    table = pa.table({"id": ["1", "2"], "title": ["blue lamp", "red door"]})
    entities, queries = EntityTower.load(checkpoint), QueryTower.load(checkpoint)
    assert entities.space_id == queries.space_id
    np.testing.assert_allclose(entities.encode(table), queries.encode(["blue lamp", "red door"]), atol=1e-5)
    with pytest.raises(InvalidData, match=r"row 1 has no text in title"):
        entities.encode(pa.table({"title": ["a", " "]}))


def test_projection_keeps_the_strongest_directions() -> None:
    rng = np.random.default_rng(0)
    pooled = (rng.standard_normal((400, 4)) @ rng.standard_normal((4, 32))).astype(np.float32)
    projection = fit_projection(pooled, 4)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    projected = projection.apply(pooled)
    np.testing.assert_allclose(projected @ projected.T, unit @ unit.T, atol=1e-4)
    assert fit_projection(pooled, 4).to_bytes() == projection.to_bytes()


def test_projection_limits() -> None:
    with pytest.raises(InvalidParams, match=r"d = 33 is not acceptable: an encoder of width 32"):
        fit_projection(np.ones((50, 32), np.float32), 33)
    with pytest.raises(InvalidParams, match=r"3 texts are too few to fit 4 dimensions"):
        fit_projection(np.ones((3, 32), np.float32), 4)
    with pytest.raises(DamagedData, match=r"zero or non-finite vector for 1 of 2 texts"):
        Projection(np.eye(4, dtype=np.float32)).apply(np.asarray([[1, 0, 0, 0], [np.nan, 0, 0, 0]], np.float32))
