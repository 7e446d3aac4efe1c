"""The whole way of a text: rules first, hits equal to misses, nothing bad kept, warm-up, restart, engine calls."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_tower import SlowTower, vector_of

from retrieval.errors import InvalidParams, InvalidQuery, StoreError, Unavailable
from retrieval.serving.calls import Limits, TextQuery
from retrieval.serving.config import make_settings
from retrieval.serving.text.cache_file import worker_path
from retrieval.serving.text.encode import embed, encode
from retrieval.serving.text.path import TextPath, check_files
from retrieval.serving.text.settings import EncodeSettings
from retrieval.towers.text import normalise_text


@pytest.fixture
def tower() -> SlowTower:
    return SlowTower()


@pytest.fixture
def path(tower: SlowTower) -> Iterator[TextPath]:
    made = TextPath(tower, EncodeSettings(max_wait_ms=0))
    yield made
    made.close()


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def test_it_stands_where_a_tower_stands(tower: SlowTower, path: TextPath) -> None:
    assert (path.space_id, path.compatible, path.d) == (tower.space_id, tower.compatible, tower.d)
    assert path.encode([]).shape == (0, tower.d)
    answer = path.encode(["one", "two", "one"])
    assert answer.dtype == np.float32
    assert np.array_equal(answer, np.stack([vector_of("one"), vector_of("two"), vector_of("one")]))
    assert tower.batches == [["one", "two"]]


@given(st.lists(st.sampled_from(["red shoes", " Red shoes", "red  shoes", "blå hatt", "x"]), min_size=1, max_size=6))
def test_a_hit_is_the_miss_bit_for_bit(texts: list[str]) -> None:
    tower = SlowTower()
    path = TextPath(tower, EncodeSettings(max_wait_ms=0))
    missed, hit = path.encode(texts), path.encode(texts)
    path.close()
    assert missed.tobytes() == hit.tobytes()
    # one vector per normal form, whichever spelling came first
    assert sum(len(batch) for batch in tower.batches) == len({normalise_text(text) for text in texts})
    stats = path.stats().cache
    assert stats.misses == stats.hits > 0


def test_a_bad_text_is_refused_before_it_meets_others(tower: SlowTower, path: TextPath) -> None:
    for bad, sentence in (("\u200b", "is empty"), ("x" * 10_000, "10,000 characters, the limit is 9,999")):
        with pytest.raises(InvalidQuery, match=sentence):
            path.encode(["good", bad])
    # its normal form is longer than any text may be; the tower gets it as it was sent
    assert path.encode(["\ufdfa" * 9_000]).shape == (1, tower.d)
    assert [len(text) for batch in tower.batches for text in batch] == [9_000]


def test_what_the_tower_could_not_encode_is_not_kept() -> None:
    tower = SlowTower(failing=lambda text: True)
    path = TextPath(tower, EncodeSettings(max_wait_ms=0))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the tower broke"):
            path.encode(["a"])
    assert len(tower.batches) == 2
    assert path.stats().cache.entries == 0
    path.close()


def test_fifty_threads_and_ten_texts_are_ten_encodings(tower: SlowTower, path: TextPath) -> None:
    barrier = threading.Barrier(50)

    def call(number: int) -> np.ndarray:
        barrier.wait()
        return path.encode([f"text {number % 10}"])[0]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(call, range(50)))
    for number, answer in enumerate(answers):
        assert np.array_equal(answer, vector_of(f"text {number % 10}"))
    encoded = [text for batch in tower.batches for text in batch]
    assert sorted(encoded) == [f"text {number}" for number in range(10)]


def test_one_who_looked_just_before_a_text_was_known_does_not_encode_it_again(
    tower: SlowTower, path: TextPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.encode(["a"])
    monkeypatch.setattr(path._cache, "get", lambda text: None)
    assert np.array_equal(path.encode(["a"])[0], vector_of("a"))
    assert tower.batches == [["a"]]


def test_only_what_is_cached_can_be_had_without_the_tower(tower: SlowTower, path: TextPath) -> None:
    path.encode(["a"])
    found = path.cached(["a", " a"])
    assert found is not None
    assert np.array_equal(found, np.stack([vector_of("a")] * 2))
    assert path.cached(["a", "b"]) is None
    assert tower.batches == [["a"]]


def test_the_calls_of_the_engine_carry_the_caller_to_the_batch(tower: SlowTower, path: TextPath) -> None:
    class Gone(Exception):
        pass

    def gone() -> None:
        raise Gone("the caller went away")

    with pytest.raises(Gone, match="the caller went away"):
        embed(["a"], path, Limits(), gone)
    with pytest.raises(Gone, match="the caller went away"):
        encode([TextQuery(text="a"), TextQuery(text="b")], path, Limits(), gone)
    assert tower.batches == []
    wait_until(lambda: path.stats().batch.dropped == 3)
    assert np.array_equal(embed(["a"], path, Limits()).vectors[0], vector_of("a"))


def test_a_restart_begins_with_what_was_known(tmp_path: Path, tower: SlowTower) -> None:
    settings = EncodeSettings(cache_file=tmp_path / "queries", max_wait_ms=0)
    first = TextPath(tower, settings)
    vectors = first.encode(["a", "b"])
    first.close()
    second = TextPath(tower, settings)
    assert second.encode(["a", "b"]).tobytes() == vectors.tobytes()
    second.close()
    assert len(tower.batches) == 1
    tower.space_id = "space-b"
    third = TextPath(tower, settings)
    assert third.stats().cache.entries == 0
    third.close()


def test_what_one_worker_learnt_all_know_after_a_restart(tmp_path: Path, tower: SlowTower) -> None:
    files = [EncodeSettings(cache_file=worker_path(tmp_path / "queries", n), max_wait_ms=0) for n in range(2)]
    for text, settings in zip("ab", files, strict=True):
        path = TextPath(tower, settings)
        path.encode([text])
        path.close()
    batches = len(tower.batches)
    for settings in (*files, EncodeSettings(cache_file=tmp_path / "queries", max_wait_ms=0)):
        path = TextPath(tower, settings)
        path.encode(["a", "b"])
        path.close()
    assert len(tower.batches) == batches


def test_the_file_is_written_while_serving_and_a_full_disk_stops_nothing(
    tmp_path: Path, tower: SlowTower, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "queries"
    path = TextPath(tower, EncodeSettings(cache_file=file, cache_save_seconds=1.0))
    path.encode(["a"])
    wait_until(file.exists)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with caplog.at_level(logging.WARNING):
        path.close()
    assert "No space left on device" in caplog.text


def test_top_queries_are_encoded_after_the_start(tmp_path: Path, tower: SlowTower) -> None:
    queries = tmp_path / "top.txt"
    queries.write_text("red shoes\n\n  red  shoes \nblue hat\n\u200b\n" + "".join(f"q{n}\n" for n in range(30)))
    path = TextPath(tower, EncodeSettings(warm_queries=queries))
    wait_until(lambda: path.stats().warmed == 32)
    assert path.cached(["red shoes", "blue hat", "q29"]) is not None
    assert path.stats().cache.misses == 0
    path.close()


def test_the_warm_up_stops_at_a_full_cache_and_at_the_end(
    tmp_path: Path, tower: SlowTower, caplog: pytest.LogCaptureFixture
) -> None:
    queries = tmp_path / "top.txt"
    queries.write_text("".join(f"query number {n}\n" for n in range(100)))
    with caplog.at_level(logging.WARNING):
        path = TextPath(tower, EncodeSettings(warm_queries=queries, cache_bytes=20_000))
        wait_until(lambda: "the query cache is full after 32 of 100 top queries" in caplog.text)
    assert path.stats().cache.evictions == 0
    assert path.cached(["query number 0"]) is not None
    path.close()
    tower.hold()
    path = TextPath(tower, EncodeSettings(warm_queries=queries))
    threading.Timer(0.1, tower.release).start()
    path.close()
    assert path.stats().warmed <= 8
    with pytest.raises(Unavailable, match="the server is stopping"):
        path.encode(["new"])


def test_settings_that_cannot_work_are_refused_at_the_start(tmp_path: Path, tower: SlowTower) -> None:
    settings = EncodeSettings(cache_file=tmp_path / "queries", warm_queries=tmp_path / "warm.txt")
    (tmp_path / "warm.txt").write_text("a\nb\n")
    assert check_files(settings) == [
        f"query cache {tmp_path / 'queries'}: will be written",
        f"top queries {tmp_path / 'warm.txt'}: 2 lines",
    ]
    with pytest.raises(StoreError, match=r"top\.txt cannot be read: no such file or directory; name a text file"):
        TextPath(tower, EncodeSettings(warm_queries=tmp_path / "top.txt"))
    (tmp_path / "top.txt").write_bytes(b"good\n\xff\n")
    with pytest.raises(StoreError, match="is not UTF-8 at byte 5: save it as UTF-8, one query a line"):
        TextPath(tower, EncodeSettings(warm_queries=tmp_path / "top.txt"))
    with pytest.raises(StoreError, match="is no folder; create it"):
        TextPath(tower, EncodeSettings(cache_file=tmp_path / "nowhere" / "queries"))
    with pytest.raises(InvalidParams, match=r"max_queue = 8 is below encode\.max_batch = 64: raise it"):
        make_settings(store=tmp_path, encode={"max_queue": 8})
    with pytest.raises(InvalidParams, match=r"there is no setting 'encode\.cache'; the settings are cache_bytes"):
        make_settings(store=tmp_path, encode={"cache": 8})
    with pytest.raises(InvalidParams, match=r"setting encode\.max_batch = 0 is not acceptable"):
        make_settings(store=tmp_path, encode={"max_batch": 0})
