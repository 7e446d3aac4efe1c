"""The canaries of a generation while it serves: replayed one at a time between the calls, and compared.

A replay is judged as everywhere (`retrieval.canaries`), and held against the first one here besides: the files do not
change, so whatever is lost since is a fault of this machine, of its libraries or of its tower. A generation without
canaries, or of which only some shards are here, is held against what it first answered to some of its own vectors.
Knows nothing about what follows from a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from retrieval.canaries import LEAST_COSINE, Canaries, Encode, count_hits, judge_hits
from retrieval.errors import DamagedData
from retrieval.serving import fanout
from retrieval.serving.calls import DEFAULT_EFFORT
from retrieval.serving.rankings import Served
from retrieval.serving.shards import LocalShard
from retrieval.serving.text.encode import TextTower
from retrieval.serving.text.path import TextPath
from retrieval.topk import normalise
from retrieval.types import F32, Metric

_AT_ONCE = 1  # queries a search: some tenths of a millisecond, which is what a call may have to wait for
_TEXTS = 16  # encoded anew in each replay, others each time: a tower takes some 10 ms for one
_SAMPLES = 16  # own vectors of a shard where there are no canaries


class CanaryWatch:
    """What one served generation has to answer.

    canaries: of the whole generation, None where there are none; tower: what encodes the callers' texts, None without.
    """

    def __init__(self, served: Served, canaries: Canaries | None, tower: TextTower | None = None) -> None:
        self._served = served
        self._first: float | None = None
        self._turn = 0
        whole = len(served.shards) == len(served.about.manifest.shards)
        self._canaries = canaries if canaries is not None and whole else None
        self._encode = None if self._canaries is None else _past_the_cache(self._canaries, tower)

    def replay(self, wait: Callable[[], None], drift: float) -> tuple[float, str]:
        """Share of the expected answers that come back, and what is wrong, empty when nothing is.

        wait: called before each query, returns when it disturbs nobody. drift: share that may be lost against
        the first replay. DamagedData when a shard fails.
        """
        canaries = self._canaries
        if canaries is None:
            canaries = self._canaries = self._own(wait)
        k, hits = canaries.scores.shape[1], []
        for number, found in enumerate(self._search(canaries, k, wait)):
            hits.append(count_hits(canaries, number, found.ids, found.scores))
        report = judge_hits(canaries, hits)
        faults = [report.failure, self._check_texts(canaries, hits, wait)]
        if self._first is None:
            self._first = report.recall
        elif report.recall < self._first - drift:
            faults.append(f"{report.recall:.3f} of the stored answers came back, {self._first:.3f} did before the swap")
        return report.recall, "; ".join(fault for fault in faults if fault)

    def _own(self, wait: Callable[[], None]) -> Canaries:
        samples = [shard.sample(_SAMPLES) for shard in self._served.shards if isinstance(shard, LocalShard)]
        queries = np.concatenate(samples)
        if self._served.about.manifest.metric is Metric.COSINE:
            queries = normalise(queries)
        unknown = Canaries(queries=queries, scores=np.zeros((len(queries), 1), np.float32))
        scores = [found.scores for found in self._search(unknown, 1, wait)]
        if not all(len(each) for each in scores):
            raise DamagedData("a shard finds nothing for its own vectors; roll back or rebuild")
        return Canaries(queries=queries, scores=np.stack(scores))

    def _search(self, canaries: Canaries, k: int, wait: Callable[[], None]) -> Iterator[fanout.Merged]:
        """What is found for each canary; what the caller makes of one comes before the wait for the next."""
        params = self._served.efforts.choose(DEFAULT_EFFORT, k).params
        for start in range(0, len(canaries.queries), _AT_ONCE):
            wait()
            xq = canaries.queries[start : start + _AT_ONCE]
            hits, reached = fanout.search_shards(self._served.shards, xq, k, params, None)
            if reached.failures:
                raise DamagedData(f"shards fail on the canaries: {'; '.join(reached.failures)}")
            yield from (fanout.merge_hits(hits, number, k) for number in range(len(xq)))

    def _check_texts(self, canaries: Canaries, hits: Sequence[int], wait: Callable[[], None]) -> str:
        encode = self._encode
        with_text = [number for number, text in enumerate(canaries.texts) if text]
        if encode is None or not with_text:
            return ""
        chosen = [with_text[(self._turn + place) % len(with_text)] for place in range(min(_TEXTS, len(with_text)))]
        self._turn += _TEXTS

        def paced(texts: Sequence[str]) -> F32:
            parts = []
            for start in range(0, len(texts), _AT_ONCE):
                wait()
                parts.append(encode(texts[start : start + _AT_ONCE]))
            return np.concatenate(parts)

        report = judge_hits(canaries.part(chosen), [hits[number] for number in chosen], paced)
        return report.failure if (report.lowest_cosine or 1.0) < LEAST_COSINE else ""


def _past_the_cache(canaries: Canaries, tower: TextTower | None) -> Encode | None:
    # vectors of another space differ, though they may search the same shards
    if tower is None or canaries.space_id != tower.space_id:
        return None
    return tower.encode_anew if isinstance(tower, TextPath) else tower.encode
