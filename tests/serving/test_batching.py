"""Batches: sizes, waits, one flight per text, dropped work, errors to their own callers, an end that drains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from slow_tower import SlowTower, vector_of

from retrieval.errors import Overloaded, Unavailable
from retrieval.serving.text.batching import BACKGROUND_TEXTS, Batcher
from retrieval.types import F32


class Gone(Exception):
    pass


class Caller:
    """Someone who may go away."""

    def __init__(self) -> None:
        self.gone = False

    def __call__(self) -> None:
        if self.gone:
            raise Gone("the caller went away")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(64) as executor:
        yield executor


@pytest.fixture
def tower() -> Iterator[SlowTower]:
    made = SlowTower()
    yield made
    made.release()


def make_batcher(tower: SlowTower, *, max_batch: int = 4, max_wait_s: float = 0.0, max_queue: int = 1_000) -> Batcher:
    return Batcher(tower.encode, max_batch=max_batch, max_wait_s=max_wait_s, max_queue=max_queue)


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def ask(batcher: Batcher, pool: ThreadPoolExecutor, text: str, caller: Caller | None = None) -> Future[F32]:
    check = caller or Caller()
    return pool.submit(lambda: batcher.encode({text: text}, check)[text])


def occupy(batcher: Batcher, tower: SlowTower, pool: ThreadPoolExecutor) -> Future[F32]:
    tower.hold()
    first = ask(batcher, pool, "first")
    assert tower.entered.acquire(timeout=10)
    return first


def test_what_arrives_while_the_tower_is_busy_goes_together_up_to_the_largest_batch(
    tower: SlowTower, pool: ThreadPoolExecutor
) -> None:
    batcher = make_batcher(tower, max_batch=4)
    first = occupy(batcher, tower, pool)
    rest = [ask(batcher, pool, f"t{number}") for number in range(10)]
    wait_until(lambda: batcher.stats().queued == 10)
    tower.release()
    assert np.array_equal(first.result(10), vector_of("first"))
    for number, future in enumerate(rest):
        assert np.array_equal(future.result(10), vector_of(f"t{number}"))
    assert [len(batch) for batch in tower.batches] == [1, 4, 4, 2]
    assert batcher.stats().largest == 4


def test_a_lone_text_does_not_wait(tower: SlowTower) -> None:
    batcher = make_batcher(tower, max_wait_s=5.0)
    for number in range(3):  # nor does one that follows on a lone one
        began = time.perf_counter()
        batcher.encode({f"{number}": f"{number}"}, Caller())
        assert time.perf_counter() - began < 1


def test_texts_that_follow_on_a_batch_wait_for_others_but_no_longer_than_allowed(
    tower: SlowTower, pool: ThreadPoolExecutor
) -> None:
    batcher = make_batcher(tower, max_batch=3, max_wait_s=2.0)  # a quarter of it without anybody ends the wait
    batcher.encode({"a": "a", "b": "b"}, Caller())
    began = time.perf_counter()
    batcher.encode({"c": "c"}, Caller())  # nobody else came
    assert 0.45 < time.perf_counter() - began < 1.9
    batcher.encode({"d": "d", "e": "e"}, Caller())
    began = time.perf_counter()
    futures = [ask(batcher, pool, text) for text in ("f", "g")]  # as many as before: they wait for nobody else
    for future in futures:
        future.result(10)
    assert time.perf_counter() - began < 0.45
    assert sorted(tower.batches[-1]) == ["f", "g"]


def test_fifty_callers_of_one_text_encode_it_once(tower: SlowTower, pool: ThreadPoolExecutor) -> None:
    known: dict[str, F32] = {}
    batcher = Batcher(
        tower.encode, max_batch=4, max_wait_s=0, max_queue=100, recall=known.get, remember=known.__setitem__
    )
    tower.hold()
    futures = [ask(batcher, pool, "same") for _ in range(50)]
    wait_until(lambda: batcher.stats().joined == 49)
    tower.release()
    assert {future.result(10).tobytes() for future in futures} == {vector_of("same").tobytes()}
    assert tower.batches == [["same"]]
    # one who looked before it was known, and comes after it has landed
    assert np.array_equal(batcher.encode({"same": "same"}, Caller())["same"], vector_of("same"))
    assert tower.batches == [["same"]]


def test_an_error_reaches_all_who_wait_and_nobody_else(pool: ThreadPoolExecutor) -> None:
    tower = SlowTower(failing=lambda text: text == "bad")
    known: dict[str, F32] = {}
    batcher = Batcher(tower.encode, max_batch=2, max_wait_s=0, max_queue=100, remember=known.__setitem__)
    occupy(batcher, tower, pool)
    bad = [ask(batcher, pool, "bad") for _ in range(5)]
    wait_until(lambda: batcher.stats().joined == 4)
    wait_until(lambda: batcher.stats().queued == 1)
    beside = ask(batcher, pool, "beside")
    wait_until(lambda: batcher.stats().queued == 2)
    other = ask(batcher, pool, "other")
    wait_until(lambda: batcher.stats().queued == 3)
    tower.release()
    for future in [*bad, beside]:
        with pytest.raises(RuntimeError, match="the tower broke"):
            future.result(10)
    assert np.array_equal(other.result(10), vector_of("other"))
    assert set(known) == {"first", "other"}
    assert batcher.stats().failed == 1
    tower.failing = lambda text: False
    assert np.array_equal(batcher.encode({"bad": "bad"}, Caller())["bad"], vector_of("bad"))


def test_a_caller_who_has_gone_does_not_take_the_others_along(tower: SlowTower, pool: ThreadPoolExecutor) -> None:
    batcher = make_batcher(tower)
    occupy(batcher, tower, pool)
    going, staying = Caller(), Caller()
    gone, stayed = ask(batcher, pool, "same", going), ask(batcher, pool, "same", staying)
    wait_until(lambda: batcher.stats().joined == 1)
    going.gone = True
    with pytest.raises(Gone, match="the caller went away"):
        gone.result(10)  # while the tower is still busy with something else
    tower.release()
    assert np.array_equal(stayed.result(10), vector_of("same"))


def test_a_text_for_which_nobody_waits_is_dropped_before_it_is_encoded(
    tower: SlowTower, pool: ThreadPoolExecutor
) -> None:
    batcher = make_batcher(tower)
    occupy(batcher, tower, pool)
    callers = [Caller() for _ in range(3)]
    futures = [ask(batcher, pool, text, caller) for text, caller in zip(("a", "a", "b"), callers, strict=True)]
    wait_until(lambda: batcher.stats().queued == 2 and batcher.stats().joined == 1)
    callers[0].gone = callers[1].gone = True
    tower.release()
    for future in futures[:2]:
        with pytest.raises(Gone, match="the caller went away"):
            future.result(10)
    assert np.array_equal(futures[2].result(10), vector_of("b"))
    assert tower.batches == [["first"], ["b"]]
    assert batcher.stats().dropped == 1
    assert np.array_equal(batcher.encode({"a": "a"}, Caller())["a"], vector_of("a"))


def test_a_full_queue_refuses_at_once_and_whole(tower: SlowTower, pool: ThreadPoolExecutor) -> None:
    batcher = make_batcher(tower, max_queue=4)
    occupy(batcher, tower, pool)
    waiting = ask(batcher, pool, "waiting")
    wait_until(lambda: batcher.stats().queued == 1)
    began = time.perf_counter()
    with pytest.raises(Overloaded, match="1 texts wait to be encoded and 4 more came, the limit is 4: come again in"):
        batcher.encode({f"{number}": f"{number}" for number in range(4)}, Caller())
    assert time.perf_counter() - began < 0.5
    joined = ask(batcher, pool, "waiting")  # costs no place
    wait_until(lambda: batcher.stats().joined == 1)
    tower.release()
    assert np.array_equal(waiting.result(10), joined.result(10))
    assert tower.batches == [["first"], ["waiting"]]
    assert batcher.stats().refused == 4


def test_a_call_of_many_texts_lets_others_between(tower: SlowTower, pool: ThreadPoolExecutor) -> None:
    batcher = make_batcher(tower, max_batch=4, max_queue=8)
    tower.hold()
    many = pool.submit(lambda: batcher.encode({f"{number}": f"{number}" for number in range(20)}, Caller()))
    assert tower.entered.acquire(timeout=10)
    lone = ask(batcher, pool, "lone")
    wait_until(lambda: batcher.stats().queued == 1)
    tower.release()
    assert np.array_equal(lone.result(10), vector_of("lone"))
    assert {text: row.tobytes() for text, row in many.result(10).items()} == {
        f"{number}": vector_of(f"{number}").tobytes() for number in range(20)
    }
    assert "lone" in tower.batches[1]
    assert max(map(len, tower.batches)) <= 4


def test_background_texts_wait_for_everyone_else_unless_somebody_asks_for_them(
    tower: SlowTower, pool: ThreadPoolExecutor
) -> None:
    batcher = make_batcher(tower, max_batch=16)
    occupy(batcher, tower, pool)
    texts = [f"background {number}" for number in range(BACKGROUND_TEXTS + 2)]
    background = pool.submit(lambda: batcher.encode({text: text for text in texts}, Caller(), background=True))
    wait_until(lambda: len(batcher._background) == len(texts))
    asked = ask(batcher, pool, texts[3])
    other = ask(batcher, pool, "other")
    wait_until(lambda: batcher.stats().queued == 2)
    tower.release()
    assert np.array_equal(asked.result(10), vector_of(texts[3]))
    assert np.array_equal(other.result(10), vector_of("other"))
    assert len(background.result(10)) == len(texts)
    assert sorted(tower.batches[1]) == sorted([texts[3], "other"])
    assert [len(batch) for batch in tower.batches[2:]] == [BACKGROUND_TEXTS, 1]


def test_the_end_drains_what_callers_wait_for_and_refuses_the_rest(tower: SlowTower, pool: ThreadPoolExecutor) -> None:
    batcher = make_batcher(tower)
    first = occupy(batcher, tower, pool)
    waiting = [ask(batcher, pool, f"{number}") for number in range(6)]
    background = pool.submit(lambda: batcher.encode({"later": "later"}, Caller(), background=True))
    wait_until(lambda: batcher.stats().queued == 6 and len(batcher._background) == 1)
    assert not batcher.close(0.05)
    with pytest.raises(Unavailable, match="the server is stopping and encodes no more text: try another server"):
        batcher.encode({"new": "new"}, Caller())
    tower.release()
    assert batcher.close(10)
    assert np.array_equal(first.result(10), vector_of("first"))
    for number, future in enumerate(waiting):
        assert np.array_equal(future.result(10), vector_of(f"{number}"))
    with pytest.raises(Unavailable, match="stopping and encodes no more in the background"):
        background.result(10)


def test_vectors_are_read_only_and_bad_ones_are_not_remembered() -> None:
    known: dict[str, F32] = {}

    def encode(texts: object) -> F32:
        return np.array([[1, 0], [0, 0], [np.nan, 1]], np.float32)

    batcher = Batcher(encode, max_batch=3, max_wait_s=0, max_queue=10, remember=known.__setitem__)
    answers = batcher.encode({text: text for text in "abc"}, Caller())
    assert list(known) == ["a"]
    with pytest.raises(ValueError, match="read-only"):
        answers["a"][0] = 2
    with pytest.raises(RuntimeError, match=r"gave shape \[3, 2\] for 1 texts"):
        batcher.encode({"d": "d"}, Caller())
