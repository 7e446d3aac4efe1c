"""`judge`: the new generation held against the old one, topic by topic, and a finding for each limit that breaks.

Without a parent only what is good or bad by itself is judged. Where a parent is of another space, metric or id type,
what cannot be compared is said and left out, and the rest is judged. Changes nothing on disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from index_builders import queries as query_files
from index_builders.gate import answers, compare, counts, ids, norms
from index_builders.gate.canaries import measure
from index_builders.gate.limits import GateLimits
from index_builders.gate.report import CanaryFigures, Comparison, Finding, GateReport, Histogram, Ids, Recall, finding
from retrieval.canaries import FLOOR, read_canaries
from retrieval.store import Generation
from retrieval.types import F32

Progress = Callable[[str, int, int], None]
_STAGES = ("counts", "ids", "vectors", "canaries", "replay")


def judge(
    old: Generation | None,
    new: Generation,
    limits: GateLimits | None = None,
    queries: Path | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> GateReport:
    """Measure `new` against `old`, the generation it is to replace (None for a first one), and against `limits`.

    The files of both are taken as verified. queries: real queries of the new space (.npy or Parquet); the canaries and
    perturbed items are replayed with or without them. seed: of what is drawn.

    Raises InvalidData for queries that cannot be used, InvalidParams for a segment column of lists, DamagedData when a
    file is not what it should be.
    """
    return _Gate(old, new, limits or GateLimits(), seed, progress).run(queries)


class _Gate:
    def __init__(
        self, old: Generation | None, new: Generation, limits: GateLimits, seed: int, progress: Progress | None
    ) -> None:
        self._old, self._new, self._limits, self._seed, self._progress = old, new, limits, seed, progress
        self._findings: list[Finding] = []
        self._histograms: list[Histogram] = []
        self._skipped: list[str] = []
        self._seconds: dict[str, float] = {}
        self._comparable = old is not None and self._say_foreign(old)

    def run(self, queries: Path | None) -> GateReport:
        old, new, limits = self._old, self._new, self._limits
        with self._stage("counts"):
            tallied = {name: counts.tally(each.manifest) for name, each in self._both().items()}
            lists, unknown = counts.lists(new.manifest)
            self._skipped += unknown
            self._findings += counts.judge(tallied, lists, limits)
        with self._stage("ids"):
            compared = self._ids()
            segments = ids.segment_rows(old, new, limits)
            if limits.segment_column is not None and not segments:
                self._skipped.append(f"no segments: no shard has an attribute column {limits.segment_column!r}")
            self._findings += ids.judge(compared, segments, limits)
        with self._stage("vectors"):
            passed = norms.look(new, old)
            self._histograms.append(norms.histogram(passed))
            stored = norms.figures(passed)
            self._findings += norms.judge(stored, new.manifest.metric, limits, comparable=self._comparable)
        with self._stage("canaries"):
            canaries = self._canaries()
        with self._stage("replay"):
            comparisons, recall = self._replay(queries)
        return GateReport(
            entity_type=new.manifest.entity_type,
            old=None if old is None else old.manifest.id,
            new=new.manifest.id,
            passed=not self._findings,
            findings=self._findings,
            skipped=self._skipped,
            comparisons=comparisons,
            recall=recall,
            segments=segments,
            counts=tallied,
            lists=lists,
            norms=stored,
            ids=compared,
            canaries=canaries,
            histograms=self._histograms,
            limits=limits.model_dump(mode="json"),
            seconds=self._seconds,
        )

    def _both(self) -> dict[str, Generation]:
        return {"new": self._new} if self._old is None else {"old": self._old, "new": self._new}

    def _say_foreign(self, old: Generation) -> bool:
        """Whether one query can ask both; else say why not."""
        pairs = (
            ("space", old.manifest.space_id, self._new.manifest.space_id),
            ("metric", str(old.manifest.metric), str(self._new.manifest.metric)),
            ("dimension", str(old.manifest.d), str(self._new.manifest.d)),
        )
        foreign = [f"the {what} changes from {was} to {now}" for what, was, now in pairs if was != now]
        if foreign:
            self._skipped.append(f"answers, scores and norms are not compared: {' and '.join(foreign)}")
        return not foreign

    def _ids(self) -> Ids | None:
        if self._old is None:
            return None
        was, now = self._old.manifest.id_type, self._new.manifest.id_type
        if was is not now:
            self._skipped.append(f"ids and answers are not compared: the ids change from {was} to {now}")
            self._comparable = False
            return None
        return ids.compare(self._old, self._new)

    def _canaries(self) -> CanaryFigures | None:
        report = measure(self._new)
        if report is None:
            self._skipped.append("no canaries are replayed: the new generation holds none")
            return None
        if not report.good:
            sentence = f"the new generation fails its own canaries: {report.failure}"
            look_at = "whether a file was exchanged after the build: `retrieval check`; build it again"
            self._findings.append(finding("canaries", report.recall, FLOOR, sentence, look_at))
        return CanaryFigures(canaries=report.canaries, recall=round(report.recall, 6), worst=report.worst)

    def _replay(self, queries: Path | None) -> tuple[list[Comparison], list[Recall]]:
        xq, kinds = self._queries(queries)
        old = self._old if self._comparable else None
        if old is None:
            here, before = answers.search(self._new, xq, compare.K), None
        else:
            here, before = answers.search_both(self._new, old, xq, compare.K)
        truth = answers.exact_search(self._new, xq, compare.K, self._limits.segment_column)
        groups = compare.groups(kinds, truth.segment, self._limits)
        recall, findings = compare.recall(here, truth, groups, self._limits)
        self._findings += findings
        if before is None:
            return [], recall
        comparisons, findings, histograms = compare.answers(before, here, groups, self._limits)
        self._findings += findings
        self._histograms += histograms
        return comparisons, recall

    def _queries(self, given: Path | None) -> tuple[F32, list[str]]:
        """What is replayed: xq float32 [q, d] and the kind of each."""
        manifest, count = self._new.manifest, self._limits.queries
        parts: dict[str, F32] = {}
        # the parent's canaries, since what callers asked for yesterday shall be found tomorrow
        for generation in (self._old if self._comparable else None, self._new):
            stored = None if generation is None else read_canaries(generation)
            if stored is not None:
                parts["canaries"] = stored.queries[:count]
                break
        if given is not None:
            parts["real"] = query_files.read_queries(given, manifest.d, manifest.metric, count, self._seed)
        sources = {"items": self._new}
        if self._old is not None and self._comparable:
            sources["parent's items"] = self._old
        for number, (kind, generation) in enumerate(sources.items()):
            stored_vectors = [answers.vectors(shard) for shard in generation.shards]
            seed = self._seed + number
            parts[kind] = query_files.perturbed_items(stored_vectors, manifest.metric, count, seed)
        xq = np.concatenate(list(parts.values()))
        return xq, [kind for kind, part in parts.items() for _ in range(len(part))]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        if self._progress is not None:
            self._progress("gate", _STAGES.index(name), len(_STAGES))
        yield
        self._seconds[name] = round(time.perf_counter() - began, 3)
        if self._progress is not None and name == _STAGES[-1]:
            self._progress("gate", len(_STAGES), len(_STAGES))
