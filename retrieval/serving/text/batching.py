"""Texts that arrive side by side are encoded together, and each text once.

One thread owns the tower. A text that finds it idle starts at once; those that arrive while it is busy go together in
the next batch. All who want the same text wait on one flight: it is encoded while at least one of them is still there,
and an error reaches every one of them. Background texts are taken only while nobody waits. After the dynamic batching
of TensorFlow Serving and text-embeddings-inference. Knows nothing about caches, texts' rules or gRPC.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import Overloaded, Unavailable
from retrieval.topk import check_vectors
from retrieval.types import F32

CheckAlive = Callable[[], None]
Encode = Callable[[Sequence[str]], F32]

BACKGROUND_TEXTS = 8  # of one background batch: what a caller may have to wait for on a tower that looked idle
_QUIET_SHARE = 4  # of the longest wait, one part without a new text ends it
_POLL_SECONDS = 0.25  # after which a waiting call looks whether its own caller is there; each look disturbs the tower


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """Counters since the start, and the queue now. queue_ns and encode_ns are sums over texts and over batches."""

    encoded: int  # texts
    batches: int
    largest: int  # texts of the largest batch so far
    joined: int  # texts that somebody else had asked for already
    dropped: int  # texts nobody waited for any more when their turn came
    refused: int  # texts that found the queue full
    failed: int  # batches
    queued: int  # texts waiting now
    queue_ns: int
    encode_ns: int


@dataclass(eq=False)
class _Flight:
    key: str
    text: str
    queued_ns: int
    waiters: list[CheckAlive] = field(default_factory=list)
    background: bool = False
    taken: bool = False
    vector: F32 | None = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Batcher:
    """Encodes texts through `encode`, in batches, on a thread of its own. Any number of threads may call.

    max_batch: texts of one batch; max_wait_s: after a batch, for the next to fill, ended by a quarter of it without a
    new text; max_queue: texts that may wait. recall(key) gives a vector that has become known since the caller looked;
    remember(key, vector) is told every good vector, before its flight ends.
    """

    def __init__(
        self,
        encode: Encode,
        *,
        max_batch: int,
        max_wait_s: float,
        max_queue: int,
        recall: Callable[[str], F32 | None] = lambda key: None,
        remember: Callable[[str, F32], None] = lambda key, vector: None,
    ) -> None:
        self._run_tower, self._recall, self._remember = encode, recall, remember
        self._max_batch, self._max_queue = max_batch, max_queue
        self._max_wait_ns = int(max_wait_s * 1e9)
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._wake_at = 0  # texts in the queue from which the sleeping thread is woken; 0: it is awake
        self._flights: dict[str, _Flight] = {}
        self._queue: deque[_Flight] = deque()
        self._background: deque[_Flight] = deque()
        self._closing = False
        self._asked = 0  # texts in the last batch and in the queue when it ended
        self._last_end_ns = 0
        self._encoded = self._batches = self._largest = self._joined = self._dropped = 0
        self._refused = self._failed = self._queue_ns = self._encode_ns = 0
        self._thread = threading.Thread(target=self._run, name="encode", daemon=True)
        self._thread.start()

    def encode(self, texts: Mapping[str, str], check_alive: CheckAlive, *, background: bool = False) -> dict[str, F32]:
        """The vectors float32 [d] of texts, given and returned by key; read-only.

        check_alive raises once the caller has gone: before the encoding, so that it can be dropped, and while waiting.
        Raises what it raises, what the tower raised, Overloaded for a full queue and Unavailable from a closing server.
        """
        keys = list(texts)
        vectors: dict[str, F32] = {}
        # by slices: a call of many texts is then no longer in the queue than a batch, and others get between
        for start in range(0, len(keys), self._max_batch):
            wanted = {key: texts[key] for key in keys[start : start + self._max_batch]}
            flights = self._board(wanted, vectors, check_alive, background)
            try:
                for flight in flights:
                    vectors[flight.key] = _landed(flight, check_alive)
            except BaseException:
                with self._lock:
                    for flight in flights:
                        flight.waiters.remove(check_alive)
                raise
        return vectors

    def stats(self) -> BatchStats:
        """The counters."""
        with self._lock:
            return BatchStats(
                encoded=self._encoded,
                batches=self._batches,
                largest=self._largest,
                joined=self._joined,
                dropped=self._dropped,
                refused=self._refused,
                failed=self._failed,
                queued=len(self._queue),
                queue_ns=self._queue_ns,
                encode_ns=self._encode_ns,
            )

    def close(self, timeout_s: float | None = None) -> bool:
        """Take no more texts, encode those that callers wait for, end; False when that took longer than the timeout."""
        with self._lock:
            self._closing = True
            self._arrived.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _board(
        self, texts: Mapping[str, str], known: dict[str, F32], check_alive: CheckAlive, background: bool
    ) -> list[_Flight]:
        """A flight per text that is not known by now; all or none of them."""
        with self._lock:
            if self._closing:
                raise Unavailable("the server is stopping and encodes no more text: try another server")
            flights: list[_Flight] = []
            fresh: list[_Flight] = []
            now = time.perf_counter_ns()
            for key, text in texts.items():
                flight = self._flights.get(key)
                if flight is None:
                    # between the caller's look into the cache and this lock the text may have landed
                    vector = self._recall(key)
                    if vector is not None:
                        known[key] = vector
                        continue
                    flight = _Flight(key, text, now, background=background)
                    fresh.append(flight)
                flights.append(flight)
            room = self._max_queue - len(self._queue)
            if len(fresh) > room and not background:
                self._refused += len(fresh)
                wait_ms = self._retry_after_ms(len(self._queue) + len(fresh) - self._max_queue)
                raise Overloaded(
                    f"{len(self._queue):,} texts wait to be encoded and {len(fresh):,} more came, the limit is "
                    f"{self._max_queue:,}: come again in {wait_ms} ms, or send vectors",
                    retry_after_ms=wait_ms,
                )
            self._joined += len(flights) - len(fresh)
            for flight in flights:
                flight.waiters.append(check_alive)
                if flight.background and not background and not flight.taken:
                    flight.background = False  # somebody waits for it now
                    self._queue.append(flight)
            for flight in fresh:
                self._flights[flight.key] = flight
                (self._background if background else self._queue).append(flight)
            if self._wake_at and (background or len(self._queue) >= self._wake_at):
                self._wake_at = 0
                self._arrived.notify()
            return flights

    def _retry_after_ms(self, texts: int) -> int:
        """Until so many texts will have left the queue, at what a text took so far."""
        mean_ms = self._encode_ns / self._encoded / 1e6 if self._encoded else 10
        return min(max(1, math.ceil(mean_ms * texts)), 10_000)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            batch = [flight for flight in batch if self._is_wanted(flight)]
            if batch:
                self._encode_batch(batch)

    def _next(self) -> list[_Flight] | None:
        """The texts of the next batch, waiting for them; None at the end."""
        with self._lock:
            while not self._queue and not self._background:
                if self._closing:
                    return None
                self._wake_at = 1
                self._arrived.wait()
            self._wake_at = 0
            if self._queue:
                self._gather()
            elif self._closing:
                error = Unavailable("the server is stopping and encodes no more in the background")
                self._land([each for each in self._background if not each.taken], error=error)
                self._background.clear()
                return None
            lane, most = (self._queue, self._max_batch) if self._queue else (self._background, BACKGROUND_TEXTS)
            batch: list[_Flight] = []
            while lane and len(batch) < most:
                flight = lane.popleft()
                if not flight.taken:  # one that was moved to the queue stands in both lanes
                    flight.taken = True
                    batch.append(flight)
            return batch

    def _gather(self) -> None:
        # Callers who were just answered often ask again at once. Without this wait they and those who came meanwhile
        # take turns in two half batches for ever, and half batches make poor use of the tower. A lone text never waits.
        expected = min(self._max_batch, self._asked)
        end = self._last_end_ns + self._max_wait_ns
        while len(self._queue) < expected and not self._closing:
            left, seen = end - time.perf_counter_ns(), len(self._queue)
            if left <= 0:
                break
            self._wake_at = expected
            self._arrived.wait(min(left, self._max_wait_ns // _QUIET_SHARE) / 1e9)
            if len(self._queue) == seen:
                break  # nobody came for a while, so those who are still missing are not on their way
        self._wake_at = 0

    def _is_wanted(self, flight: _Flight) -> bool:
        with self._lock:
            waiters = list(flight.waiters)
        gone: BaseException | None = None
        for waiter in waiters:
            try:
                waiter()
            except BaseException as error:
                gone = error
            else:
                return True
        with self._lock:
            if any(waiter not in waiters for waiter in flight.waiters):
                return True  # somebody came while the others were asked
            self._dropped += 1
            self._land([flight], error=gone)
        return False

    def _encode_batch(self, batch: list[_Flight]) -> None:
        began = time.perf_counter_ns()
        rows: list[F32] = []
        failure: BaseException | None = None
        try:
            vectors = np.asarray(self._run_tower([flight.text for flight in batch]), np.float32)
            if vectors.ndim != 2 or len(vectors) != len(batch):
                raise RuntimeError(f"the tower gave shape {list(vectors.shape)} for {len(batch)} texts")
            for flight, vector, good in zip(batch, vectors, check_vectors(vectors).tolist(), strict=True):
                row = vector.copy()  # a view would keep the whole batch in memory
                row.setflags(write=False)
                rows.append(row)
                if good:
                    self._remember(flight.key, row)
        except BaseException as error:  # whatever it was, it belongs to those who wait, and the thread goes on
            failure = error
        ended = time.perf_counter_ns()
        with self._lock:
            self._batches += 1
            self._failed += failure is not None
            self._encoded += 0 if failure else len(batch)
            self._largest = max(self._largest, len(batch))
            self._queue_ns += sum(began - flight.queued_ns for flight in batch)
            self._encode_ns += ended - began
            self._asked, self._last_end_ns = len(batch) + len(self._queue), ended
            self._land(batch, rows=rows, error=failure)

    def _land(
        self, flights: Sequence[_Flight], *, rows: Sequence[F32] = (), error: BaseException | None = None
    ) -> None:
        for place, flight in enumerate(flights):
            self._flights.pop(flight.key, None)
            flight.vector = rows[place] if error is None and rows else None
            flight.error = error
            flight.done.set()


def _landed(flight: _Flight, check_alive: CheckAlive) -> F32:
    while not flight.done.wait(_POLL_SECONDS):
        check_alive()
    if flight.error is not None:
        check_alive()  # of a flight that was dropped each caller is told its own reason
        raise flight.error
    assert flight.vector is not None  # a flight without an error has landed with its vector
    return flight.vector
