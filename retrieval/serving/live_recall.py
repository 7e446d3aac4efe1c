"""Live recall: a share of the answers is searched again exactly, when nobody waits, and compared.

The sample is drawn with a seed; a search again runs alone, in a thread of its own, and only while the server is idle;
what does not fit the backlog is counted and dropped. An answer with crowding, or one that some shard did not take part
in, is not sampled: its loss is not the effort's. Knows nothing about queues, gRPC or how an effort was chosen.
"""

from __future__ import annotations

import json
import logging
import random
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retrieval import topk
from retrieval.serving.calls import Effort, LiveRecall, Source, Wanted
from retrieval.serving.effort.frontier import band_name
from retrieval.serving.filtering.filters import Restriction
from retrieval.serving.rankings import Served
from retrieval.serving.shards import Shard
from retrieval.types import F32

_log = logging.getLogger(__name__)
_Z = 1.959964  # 95 % of a normal distribution lies within
_MOST_KINDS = 1_000  # combinations of type, effort, band and k: callers choose efforts, so they must be bounded
_IDLE_POLL_S = 0.02


class LiveRecallSettings(BaseModel):
    """How many answers are searched again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="share of the answers searched again exactly; more narrows the interval sooner",
    )
    seed: int = Field(default=0, ge=0, description="of the sample, so that a run can be repeated")
    backlog: int = Field(
        default=64, ge=1, le=10_000, description="answers kept until the server is idle; more are dropped"
    )


@runtime_checkable
class ExactShard(Protocol):
    """A shard that can search without its index."""

    def exact(self, xq: F32, k: int, restriction: Restriction) -> F32 | None:
        """Scores float32 [q, k] of the k best allowed rows, descending, -inf behind the last; None if it cannot."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer of one entity type. xq: float32 [1, d]; scores: float32 [n], descending, at most k."""

    entity_type: str
    shards: Sequence[Shard]
    xq: F32
    k: int
    restriction: Restriction
    scores: F32
    effort: Effort
    share: float | None  # of the rows that the filter allows, None without a filter or where it is unknown


@dataclass(frozen=True, kw_only=True)
class LiveRecallStats:
    """Answers sampled, measured, dropped for want of room, and given up because a shard cannot search exactly."""

    sampled: int
    measured: int
    dropped: int
    given_up: int


class LiveRecallMeter:
    """Recall of answers served, measured in idle time.

    idle: whether a search in the background hurts nobody now. start: False leaves it to the caller to `work`.
    """

    def __init__(
        self,
        settings: LiveRecallSettings | None = None,
        *,
        idle: Callable[[], bool] = lambda: True,
        start: bool = True,
    ) -> None:
        self._settings = settings or LiveRecallSettings()
        self._idle = idle
        self._random = random.Random(self._settings.seed)
        self._lock = threading.Lock()
        self._backlog: deque[Answered] = deque()
        self._sums: OrderedDict[tuple[str, str, str, int], tuple[int, float]] = OrderedDict()
        self._sampled = self._measured = self._dropped = self._given_up = 0
        self._wake, self._closing = threading.Event(), threading.Event()
        self._start = start
        self._thread: threading.Thread | None = None

    def wait_for(self, idle: Callable[[], bool]) -> None:
        """Ask another question from now on to learn whether the server is idle."""
        self._idle = idle

    def draw(self) -> bool:
        """Whether the next answer belongs to the sample."""
        if self._settings.share == 0:
            return False
        with self._lock:
            return self._random.random() < self._settings.share

    def offer(self, answer: Answered) -> None:
        """Keep a drawn answer for later, unless it has crowding or there is no room."""
        if answer.restriction.crowding is not None:
            return
        with self._lock:
            self._sampled += 1
            if len(self._backlog) >= self._settings.backlog:
                self._dropped += 1
                return
            self._backlog.append(answer)
            if self._start and self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._run, name="live-recall", daemon=True)
                self._thread.start()
        self._wake.set()

    def work(self) -> bool:
        """Measure one answer of the backlog now; False when there is none."""
        with self._lock:
            if not self._backlog:
                return False
            answer = self._backlog.popleft()
        recall = recall_of(answer)
        key = (answer.entity_type, _compact(answer.effort), _band(answer), answer.k)
        with self._lock:
            if recall is None:
                self._given_up += 1
                return True
            self._measured += 1
            answers, total = self._sums.pop(key, (0, 0.0))
            self._sums[key] = (answers + 1, total + recall)
            if len(self._sums) > _MOST_KINDS:
                self._sums.popitem(last=False)
        return True

    def forget(self, entity_type: str) -> None:
        """Begin anew for a type that another generation serves now; answers that wait let go of the one before."""
        with self._lock:
            self._backlog = deque(each for each in self._backlog if each.entity_type != entity_type)
            for key in [key for key in self._sums if key[0] == entity_type]:
                del self._sums[key]

    def measured(self) -> tuple[LiveRecall, ...]:
        """Mean recall@k per entity type, effort, filter band and k, each with its 95 % interval."""
        with self._lock:
            sums = list(self._sums.items())
        found = []
        for (entity_type, effort, band, k), (answers, total) in sorted(sums):
            low, high = wilson(total / answers, answers)
            found.append(
                LiveRecall(
                    entity_type=entity_type,
                    effort_json=effort,
                    filter_band=band,
                    k=k,
                    answers=answers,
                    recall=total / answers,
                    low=low,
                    high=high,
                )
            )
        return tuple(found)

    def stats(self) -> LiveRecallStats:
        """The counters."""
        with self._lock:
            return LiveRecallStats(
                sampled=self._sampled, measured=self._measured, dropped=self._dropped, given_up=self._given_up
            )

    def close(self) -> None:
        """End the thread; what waits is given up."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(10)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            while not self._closing.is_set():
                if not self._idle():
                    self._closing.wait(_IDLE_POLL_S)
                    continue
                try:
                    if not self.work():
                        break
                except Exception:
                    _log.exception("an answer could not be searched again")


def offer(
    meter: LiveRecallMeter,
    types: Sequence[Served],
    sources: Sequence[Source],
    vectors: Sequence[F32],
    scores: Sequence[F32],
    wanted: Wanted,
) -> None:
    """Give a drawn answer to the meter, type by type, where every shard took part.

    vectors: float32 [1, d] and scores: float32 [n] of each type.
    """
    for served, source, xq, found in zip(types, sources, vectors, scores, strict=True):
        if source.coverage < 1:
            continue
        meter.offer(
            Answered(
                entity_type=source.entity_type,
                shards=served.shards,
                xq=xq,
                k=wanted.k,
                restriction=wanted.restriction,
                scores=found,
                effort=source.effort,
                share=None if source.matches is None else source.matches / source.rows,
            )
        )


def recall_of(answer: Answered) -> float | None:
    """Share of the exact k best, ties counted by score, that an answer holds; None where a shard cannot tell."""
    parts = []
    for shard in answer.shards:
        scores = shard.exact(answer.xq, answer.k, answer.restriction) if isinstance(shard, ExactShard) else None
        if scores is None:
            return None
        parts.append(scores[0])
    exact = -np.sort(-np.concatenate(parts))[: answer.k]
    truth = exact[np.isfinite(exact)][None, :]
    if not truth.shape[1]:
        return 1.0  # the filter allows nothing, and nothing is missing
    found = np.full_like(truth, -np.inf)
    width = min(len(answer.scores), truth.shape[1])
    found[0, :width] = answer.scores[:width]
    return float(topk.recall(found, truth))


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a mean of n values in 0..1 (Wilson, 1927, with answers as trials).

    Candidates of one answer are found or missed together, so an answer is one trial. The variance of a value in 0..1
    is at most that of a coin with the same mean, so the interval is wide enough, and rather too wide.
    """
    middle = (share + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
    half = _Z / (1 + _Z * _Z / n) * float(np.sqrt(share * (1 - share) / n + _Z * _Z / (4 * n * n)))
    return max(0.0, middle - half), min(1.0, middle + half)


def _compact(effort: Effort) -> str:
    return json.dumps({name: value for name, value in asdict(effort).items() if value is not None}, sort_keys=True)


def _band(answer: Answered) -> str:
    if answer.restriction.filter is not None and answer.share is None:
        return "unknown"
    return band_name(answer.share)
