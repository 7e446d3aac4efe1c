"""The whole choice: draw a sample, try every candidate on two sizes of it, extrapolate to a shard, choose.

Candidates whose bytes alone break a bound are not built. The same source, bounds and seed try the same builds; the
latencies are this machine's at this moment, so a choice between near equals may differ from run to run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from index_builders import verify
from index_builders.queries import query_sets
from index_builders.settings import BuildSettings
from index_builders.tune.bounds import Bounds
from index_builders.tune.candidates import Candidate, candidates, row_bytes
from index_builders.tune.choose import Choice, Verdict, choose, excess, judge
from index_builders.tune.extrapolate import latency, recall
from index_builders.tune.sample import SAMPLE_ROWS, Sample, draw_sample
from index_builders.tune.trial import Trial, resolved, try_out
from retrieval.errors import FailedPrecondition, InvalidData, MissingDependency
from retrieval.types import F32

_SMALL = 4  # the small size is one part in so many of the sample
_QUERIES = 100
_MOST_BYTES = 1e9  # stands for a candidate that cannot be built, in no sentence


@dataclass(frozen=True, kw_only=True)
class TuneReport:
    """The verdict on every candidate for shards of `shard_rows` rows, judged on `sample_rows` of them."""

    bounds: Bounds
    rows: int
    d: int
    shards: int
    shard_rows: int
    sample_rows: int
    query_kind: str
    verdicts: list[Verdict]

    @property
    def choice(self) -> Choice | None:
        """What to build; None when nothing keeps the bounds."""
        return next((verdict.nearest for verdict in self.verdicts if verdict.chosen), None)

    def chosen(self) -> Choice:
        """What to build; FailedPrecondition names the nearest candidate and the bound that gives."""
        if self.choice is not None:
            return self.choice
        tried = [verdict for verdict in self.verdicts if verdict.nearest is not None]
        if tried:
            nearest = min(tried, key=lambda v: excess(v.nearest, self.bounds) if v.nearest else np.inf)
            raise FailedPrecondition(
                f"no candidate keeps the bounds; the nearest is {nearest.candidate.name}, which gives {nearest.reason}"
                ": relax that bound, or use more shards or fewer dimensions"
            )
        least = min(self.verdicts, key=lambda verdict: verdict.bytes_per_row)
        raise FailedPrecondition(
            f"no candidate keeps the bounds; the smallest is {least.candidate.name} with {least.bytes_per_row:.0f} "
            f"bytes per row where {self.bounds.max_bytes_per_row or 0:.4g} are allowed: allow more, or embed in fewer "
            "dimensions"
        )


def tune(
    settings: BuildSettings,
    bounds: Bounds,
    *,
    sample_rows: int = SAMPLE_ROWS,
    progress: Callable[[str, int, int], None] | None = None,
) -> TuneReport:
    """Judge every candidate for the build of `settings` (its kind and params aside) by `bounds`.

    Real queries are used where the settings name some, else perturbed items. Raises InvalidData for a source or queries
    that cannot be used; that nothing fits is told by `TuneReport.chosen`.
    """
    sample = draw_sample(settings, sample_rows)
    xq_set = query_sets(settings.queries, [sample.x], settings.metric, _QUERIES, settings.seed)[0]
    shard_rows = -(-sample.rows // settings.shards)
    verdicts: list[Verdict] = []
    tried: dict[str, tuple[Trial, Trial]] = {}
    everything = candidates(sample.d)
    for done, candidate in enumerate(everything):
        verdicts.append(_verdict(candidate, sample, xq_set.xq, settings, bounds, shard_rows, tried))
        if progress is not None:
            progress("tune", done + 1, len(everything))
    return TuneReport(
        bounds=bounds,
        rows=sample.rows,
        d=sample.d,
        shards=settings.shards,
        shard_rows=shard_rows,
        sample_rows=len(sample.x),
        query_kind=xq_set.kind,
        verdicts=choose(verdicts, bounds),
    )


def _verdict(
    candidate: Candidate,
    sample: Sample,
    xq: F32,
    settings: BuildSettings,
    bounds: Bounds,
    shard_rows: int,
    tried: dict[str, tuple[Trial, Trial]],
) -> Verdict:
    rejected = Verdict(candidate=candidate, nearest=None, bytes_per_row=_MOST_BYTES, chosen=False, reason="")
    try:
        params = resolved(candidate, sample.rows, settings.shards, sample.d)
        least = row_bytes(candidate, params, shard_rows, sample.d, codes=False)
        if bounds.max_bytes_per_row is not None and least > bounds.max_bytes_per_row:
            reason = f"not built: {least:.0f} bytes per row, above {bounds.max_bytes_per_row:.4g}"
            return _with(rejected, least, reason)
        key = f"{candidate.kind} {sorted(candidate.params.items())}"
        ladder = verify.efforts(candidate.kind, params)
        if key not in tried:
            sizes = (max(1, len(sample.x) // _SMALL), len(sample.x))
            small, large = (
                try_out(candidate, sample.x[:n], xq, settings.metric, seed=settings.seed, ladder=ladder) for n in sizes
            )
            tried[key] = small, large
    except (InvalidData, MissingDependency) as error:
        return _with(rejected, _MOST_BYTES, f"not built: {error}")
    size = row_bytes(candidate, params, shard_rows, sample.d, codes=tried[key][1].codes)
    choices = _choices(candidate, params, tried[key], size, settings, shard_rows)
    return judge(choices, bounds) if choices else _with(rejected, size, "not built: no effort of its own")


def _with(verdict: Verdict, size: float, reason: str) -> Verdict:
    return Verdict(candidate=verdict.candidate, nearest=None, bytes_per_row=size, chosen=False, reason=reason)


def _choices(
    candidate: Candidate,
    params: dict[str, object],
    trials: tuple[Trial, Trial],
    size: float,
    settings: BuildSettings,
    shard_rows: int,
) -> list[Choice]:
    """The candidate at each of its efforts, cheapest first, as expected at the size of a shard."""
    small, large = trials
    wanted = candidate.ladder(params)
    found = []
    for effort, below, point in zip(
        verify.efforts(candidate.kind, params), small.frontier, large.frontier, strict=True
    ):
        if effort not in wanted:
            continue
        p50 = latency(candidate.kind, (small.rows, below.p50_ms), (large.rows, point.p50_ms), shard_rows)
        # of the two sizes the steadier: other work on the machine only ever adds to a tail
        tail = min(each.p95_ms / max(each.p50_ms, 1e-6) for each in (below, point))
        found.append(
            Choice(
                candidate=candidate,
                params=params,
                search=effort.model_dump(mode="json"),
                recall_at_100=recall(
                    candidate.kind,
                    (small.rows, below.recall_at_100),
                    (large.rows, point.recall_at_100),
                    shard_rows,
                    answers=100 * point.queries,
                ),
                p95_ms=p50 * tail * settings.shards,
                bytes_per_row=size,
            )
        )
    return sorted(found, key=lambda choice: choice.p95_ms)
