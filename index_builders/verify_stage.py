"""Stage 4, verify, of a build: what is measured on the staged shards, what is carried over, and the canaries.

Knows which figures a manifest holds, and nothing about how one of them is measured or about stores.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from index_builders import add, bands, frontiers, queries, verify
from index_builders.carried import MARGIN, Carried
from index_builders.gate import canaries
from index_builders.plan import Plan, Progress
from index_builders.settings import BuildSettings
from index_builders.spool import open_vectors, read_rows, vectors_file
from index_builders.staging import Staging
from index_builders.tune.outcome import Promise, outcome
from retrieval.params import SearchParams
from retrieval.store.generation import CANARIES_FILE, ID_COLUMN
from retrieval.store.manifest import FrontierPoint


def verify_built(
    plan: Plan,
    staging: Staging,
    rows: list[int],
    settings: BuildSettings,
    out: Path,
    progress: Progress | None,
    started: float,
    known: Carried | None,
) -> dict[str, Any]:
    """Measure the staged shards, choose the default effort and write the canaries into `out`; the stage's report.

    rows: of each shard; started: `time.perf_counter()` when the build began; known: what may be carried over.
    BuildFailed when recall is below the plan's floor.
    """
    parts = [_part(plan, staging, shard, rows[shard]) for shard in range(plan.shards)]
    sets = queries.query_sets(
        settings.queries, [part.exact() for part in parts], plan.metric, plan.verify_queries, plan.seed
    )
    xq = sets[0].xq
    ladder = verify.efforts(plan.kind, plan.params)

    def measure(efforts: list[SearchParams], *, deep: bool) -> tuple[verify.Measured, list[FrontierPoint]]:
        return frontiers.measure_frontiers(
            parts,
            sets,
            plan.metric,
            efforts,
            target_recall=plan.target_recall,
            began=started,
            deep=deep,
            progress=progress,
        )

    frontier: list[FrontierPoint] = []
    if known is not None and known.changed_suffice(ladder, plan.target_recall):
        # the gate measures the whole at this effort; here only what is not as it was measured
        changed = [parts[shard] for shard in known.changed]
        short = verify.measure(changed, xq, plan.metric, known.ladder(ladder), target_recall=0) if changed else None
        if short is None or short.chosen.recall_at_100 >= plan.target_recall + MARGIN:
            measured = known.as_measured()
        else:
            known = None
    elif known is not None:
        measured, frontier = measure(known.ladder(ladder), deep=False)
        known = known if known.holds(measured.default, measured.frontier, plan.target_recall) else None
    if known is None:
        measured, frontier = measure(ladder, deep=True)
    verify.gate(measured, plan.min_recall)
    chosen = canaries.choose(
        [part.exact() for part in parts],
        d=plan.d,
        metric=plan.metric,
        space_id=plan.space_id,
        seed=plan.seed,
        queries=settings.queries,
        texts=settings.canary_texts,
        checkpoint=settings.checkpoint,
    )
    verify.canaries(
        parts,
        chosen.queries,
        measured.default,
        out / CANARIES_FILE,
        texts=chosen.texts,
        space_id=chosen.space_id,
    )
    warnings = [*measured.warnings]
    said = None if known is None else known.sentence(frontier)
    if settings.promised is not None:
        warnings.append(outcome(Promise(**settings.promised), known.frontier(frontier) if known else frontier))
    if known is not None and said is not None:
        warnings.append(said)
        frontier, crossovers = known.frontier(frontier), known.manifest.scan_crossover
    else:
        crossovers = verify.scan_crossovers(parts, xq, measured.default, plan.seed)
        budget_s = max(bands.LEAST_S, bands.SHARE_OF_BUILD * (time.perf_counter() - started))
        frontier += bands.measure_bands(
            parts, xq, plan.metric, ladder, budget_s=budget_s, seed=plan.seed, query_kind=sets[0].kind
        )
    if progress is not None:
        progress("verify", 1, 1)
    return {
        "default": measured.default.model_dump(mode="json"),
        "frontier": [point.model_dump() for point in frontier],
        "scan_crossover": {kind: found.model_dump(mode="json") for kind, found in crossovers.items()},
        "query_source": queries.describe(settings.queries, len(xq), plan.seed)
        + "; truth: exact search over the float32 source",
        "warnings": warnings,
        "carried": None if known is None else known.reports,
    }


def _part(plan: Plan, staging: Staging, shard: int, rows: int) -> verify.Part:
    spools, order = staging.work / "read", add.order_file(staging, shard)
    path = staging.generation / add.shard_name(shard)
    return verify.Part(
        path=path,
        kind=plan.kind,
        rows=rows,
        exact=lambda: open_vectors(vectors_file(spools, shard)),
        order=lambda: np.load(order) if order.exists() else None,
        ids=lambda: read_rows(path / "rows.arrow").column(ID_COLUMN),
    )
