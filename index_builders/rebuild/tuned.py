"""Kind and parameters of a job with a table [tune]: chosen once by its bounds, inherited from then on.

The reports of the shards keep the bounds, so that the next run knows that its parent was chosen by the same ones; other
bounds, or a parent that was not chosen so, make the choice anew. Knows nothing about how candidates are tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from index_builders.rebuild.job_file import IndexTable, JobSettings
from index_builders.settings import BuildSettings
from retrieval.errors import RetrievalError
from retrieval.store import Store

REPORT_KEY = "tuned"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """index: the table [index] with the choice in it; bounds: for the shards' reports; note: for a person."""

    index: IndexTable
    bounds: dict[str, Any] | None
    note: str | None = None


def tuned(
    job: JobSettings,
    store: Store,
    parent: str | None,
    settings: BuildSettings,
    progress: Callable[[str, int, int], None] | None = None,
) -> Tuned:
    """What to build for `job`: what [index] says, unless there is a [tune]. settings: of the build as [index] says.

    FailedPrecondition when no candidate keeps the bounds, InvalidData when the source cannot be used.
    """
    if job.tune is None:
        return Tuned(index=job.index, bounds=None)
    bounds = job.tune.model_dump(mode="json")
    wanted = {"target_recall": job.tune.target_recall}
    inherited = _of_parent(job, store, parent, bounds)
    if inherited is not None:
        return Tuned(index=job.index.model_copy(update={**wanted, **inherited}), bounds=bounds)
    from index_builders.tune import tune  # tries every kind, whose libraries an inherited choice does not need

    report = tune(settings, job.tune, progress=progress)
    choice = report.chosen()
    note = (
        f"[tune] chose {choice.candidate.name} on {report.sample_rows:,} rows: recall@100 {choice.recall_at_100:.4f}, "
        f"p95 {choice.p95_ms:.3g} ms and {choice.bytes_per_row:.0f} bytes per row are expected"
    )
    chosen = {"kind": choice.candidate.kind, "params": choice.params}
    return Tuned(index=job.index.model_copy(update={**wanted, **chosen}), bounds=bounds, note=note)


def _of_parent(job: JobSettings, store: Store, parent: str | None, bounds: dict[str, Any]) -> dict[str, Any] | None:
    """Kind and parameters of the parent if it was chosen by the same bounds for as many shards."""
    if parent is None:
        return None
    try:
        shards = store.manifest(job.entity_type, parent).shards
    except RetrievalError:
        return None
    if len(shards) != job.index.shards or any(shard.report.get(REPORT_KEY) != bounds for shard in shards):
        return None
    return {"kind": shards[0].kind, "params": shards[0].build_params}
