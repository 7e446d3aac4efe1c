"""The query cache: never over its bytes, hits bit for bit, age, and a file that is whole or left out."""

from __future__ import annotations

import json
import logging
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import StoreError
from retrieval.serving.text.cache import QueryCache
from retrieval.serving.text.cache_file import (
    check_cache_path,
    load_cache,
    save_cache,
    worker_path,
    written_by_all,
)

D, DAY = 4, 86_400.0
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30)


class Clock:
    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_cache(
    clock: Clock | None = None, *, max_bytes: int = 100_000, space_id: str = "space-a", ttl_seconds: float = 30 * DAY
) -> QueryCache:
    return QueryCache(space_id, max_bytes=max_bytes, ttl_seconds=ttl_seconds, clock=clock or Clock())


def vector_of(number: float, d: int = D) -> np.ndarray:
    return np.full(d, number + 0.1, np.float32)


@given(st.lists(st.tuples(TEXTS, st.sampled_from(["put", "get", "age"])), max_size=60), st.integers(0, 4_000))
def test_it_is_never_over_its_bytes_and_a_hit_is_what_was_put(steps: list[tuple[str, str]], max_bytes: int) -> None:
    clock, put = Clock(), dict[str, np.ndarray]()
    cache = make_cache(clock, max_bytes=max_bytes)
    looked = 0
    for number, (text, action) in enumerate(steps):
        if action == "put":
            put[text] = vector_of(number)
            cache.put(text, put[text])
        elif action == "age":
            clock.now += 7 * DAY
        else:
            looked += 1
            found = cache.get(text)
            if found is not None:
                assert found.tobytes() == put[text].tobytes()
        stats = cache.stats()
        assert 0 <= stats.size_bytes <= max_bytes
        assert stats.hits + stats.misses == looked
    assert sum(cache.peek(text) is not None for text in put) == len(cache.entries()) <= cache.stats().entries


def test_the_bytes_it_counts_are_no_fewer_than_those_it_takes() -> None:
    texts = [f"a query of the usual length, number {number}" for number in range(5_000)]
    vector = vector_of(1, 256)
    cache = make_cache(max_bytes=100_000_000)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for text in texts:
        cache.put(text.strip(), vector)
    keys = sum(len(text) + 49 for text in texts)  # held by the list above too
    taken = tracemalloc.get_traced_memory()[0] - before + keys
    tracemalloc.stop()
    assert 0.8 * cache.stats().size_bytes < taken <= cache.stats().size_bytes


def test_the_least_recently_used_goes_first() -> None:
    cache = make_cache(max_bytes=3 * 560)
    for number, text in enumerate("abc"):
        cache.put(text, vector_of(number))
    assert cache.get("a") is not None
    cache.peek("b")  # does not count as a use
    cache.put("d", vector_of(4))
    assert [entry.text for entry in cache.entries()] == ["c", "a", "d"]
    assert cache.stats().evictions == 1


def test_an_entry_ends_with_its_age_and_a_clock_set_back_is_not_trusted() -> None:
    clock = Clock()
    cache = make_cache(clock, ttl_seconds=100)
    cache.put("a", vector_of(1))
    clock.now += 99.9
    assert cache.get("a") is not None
    clock.now += 0.1
    assert cache.get("a") is None
    cache.put("b", vector_of(2))
    clock.now -= 1_000
    assert cache.get("b") is None
    assert (cache.stats().expired, cache.stats().entries, cache.stats().size_bytes) == (2, 0, 0)


def test_what_is_kept_is_a_read_only_copy() -> None:
    cache, vector = make_cache(), vector_of(1)
    cache.put("a", vector)
    vector[:] = 0
    found = cache.get("a")
    assert found is not None
    assert found.tolist() == vector_of(1).tolist()
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache = make_cache(max_bytes=0)
    cache.put("a", vector_of(1))
    assert cache.get("a") is None
    assert not cache.has_room(["a"], D)


@given(st.dictionaries(TEXTS, st.floats(0.5, 2, width=32), max_size=20))
def test_the_file_gives_back_texts_vectors_ages_and_order(
    tmp_path_factory: pytest.TempPathFactory, texts: dict[str, float]
) -> None:
    path = tmp_path_factory.mktemp("cache") / "queries"
    clock = Clock()
    saved, loaded = make_cache(clock), make_cache(clock)
    for text, number in texts.items():
        clock.now += 1
        saved.put(text, vector_of(number))
    assert save_cache(saved, path, d=D) == len(texts)
    clock.now += DAY
    assert load_cache(loaded, path, d=D) == len(texts)
    as_bytes = [[(e.text, e.vector.tobytes(), e.expires) for e in cache.entries()] for cache in (saved, loaded)]
    assert as_bytes[0] == as_bytes[1]
    assert [each.name for each in path.parent.iterdir()] == ["queries"]


def test_a_restart_does_not_make_an_entry_younger(tmp_path: Path) -> None:
    clock = Clock()
    cache = make_cache(clock)
    cache.put("old", vector_of(1))
    clock.now += 20 * DAY
    cache.put("new", vector_of(2))
    save_cache(cache, tmp_path / "queries", d=D)
    clock.now += 15 * DAY
    again = make_cache(clock)
    assert load_cache(again, tmp_path / "queries", d=D) == 1
    assert again.get("old") is None
    assert again.get("new") is not None


def test_a_smaller_cache_takes_the_most_recent_of_a_file(tmp_path: Path) -> None:
    cache = make_cache()
    for number in range(10):
        cache.put(f"{number}", vector_of(number))
    save_cache(cache, tmp_path / "queries", d=D)
    small = make_cache(max_bytes=2 * 560)
    assert load_cache(small, tmp_path / "queries", d=D) == 2
    assert [entry.text for entry in small.entries()] == ["8", "9"]


def _saved(path: Path, space_id: str = "space-a") -> bytes:
    cache = make_cache(space_id=space_id)
    for number in range(5):
        cache.put(f"query {number}", vector_of(number))
    save_cache(cache, path, d=D)
    return path.read_bytes()


def _warning(path: Path, caplog: pytest.LogCaptureFixture, d: int = D) -> str:
    cache = make_cache()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert load_cache(cache, path, d=d) == 0
    assert cache.stats().entries == 0
    (record,) = caplog.records
    return record.getMessage()


def test_a_file_that_is_damaged_anywhere_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "queries"
    data = _saved(path)
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        assert "is left out" in _warning(path, caplog)
    for length in (0, 5, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert "is left out" in _warning(path, caplog)


def test_a_foreign_space_a_newer_version_and_another_dimension_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queries"
    _saved(path, "space-b")
    assert "it is of space space-b, the tower makes space-a" in _warning(path, caplog)
    data = _saved(path)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["version"] = "2"
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + size :])
    assert "format version 2, this server reads 1" in _warning(path, caplog)
    _saved(path)
    assert "have shape [5, 4], expected [5, 3]" in _warning(path, caplog, d=3)


def test_no_file_is_a_cold_start_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_cache(make_cache(), tmp_path / "queries", d=D) == 0
    assert not caplog.records


def test_a_failed_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "queries"
    data = _saved(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot be written to .*queries: No space left on device"):
        _saved(path)
    assert path.read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["queries"]


def test_a_path_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    check_cache_path(tmp_path / "queries")
    with pytest.raises(StoreError, match="it is a folder; name a file in it"):
        check_cache_path(tmp_path)
    with pytest.raises(StoreError, match="nowhere is no folder; create it"):
        check_cache_path(tmp_path / "nowhere" / "queries")


def test_workers_keep_files_of_their_own_and_read_those_of_all(tmp_path: Path) -> None:
    path = tmp_path / "queries[1]"  # no pattern, though it looks like one
    files = [worker_path(path, number) for number in range(3)]
    assert files[2].name == "queries[1].worker-2"
    assert written_by_all(files[1]) == [files[1]]
    for file in (path, *files, tmp_path / "queries[1].worker-x", tmp_path / "queries1.worker-0"):
        file.write_bytes(b"")
    assert written_by_all(files[1]) == [path, files[0], files[2], files[1]]
    assert written_by_all(path) == [*files, path]
