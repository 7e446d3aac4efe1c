"""`retrieval gate`: hold one generation against another, as a rebuild does before it publishes. Changes nothing."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from index_builders.gate import GateLimits, GateReport, judge, read_limits, write_report
from retrieval.cli.phrases import counted, read_first
from retrieval.cli.progress import progress_printer
from retrieval.cli.stores import Cache, EntityType, Json, StoreWhere, open_mirror, open_store
from retrieval.store import RemoteStore

NONE = "none"  # instead of OLD: judged as a first generation


def gate(
    store: StoreWhere,
    entity_type: EntityType,
    old: Annotated[str, typer.Argument(help="Generation to compare with; 'none' judges NEW as a first one.")],
    new: Annotated[str, typer.Argument(help="Generation that is to replace it.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.md, report.json and plots; a person reads why there.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Job file whose table `gate` holds the limits; the defaults if left out.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Real query embeddings (.npy or Parquet): they weigh what callers ask for.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=10, max=10_000, help="Queries of each kind; more for steadier figures.")
    ] = None,
    segment_column: Annotated[
        str | None, typer.Option(help="Attribute whose values are judged one by one; means hide what a part loses.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is drawn; the same seed, the same figures.")] = 0,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Compare two generations; exit code 1, and why in one line each, when a limit does not hold."""
    limits = GateLimits() if config is None else read_limits(config)
    given = {"queries": count, "segment_column": segment_column}
    limits = limits.model_copy(update={name: value for name, value in given.items() if value is not None})
    with ExitStack() as stack:
        progress = stack.enter_context(progress_printer(f"gate {entity_type}"))
        house = open_store(store, progress)
        names = [new] if old == NONE else [new, old]
        if isinstance(house, RemoteStore):
            folder = cache or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retrieval-gate-")))
            mirror = open_mirror(house.url, folder, progress)
            for name in names:
                mirror.fetch(entity_type, name)
            house = mirror.store
        opened = [house.open(entity_type, name) for name in names]
        report = judge(opened[1] if len(opened) > 1 else None, opened[0], limits, queries, seed=seed, progress=progress)
    print(sentences(report))
    if out is not None:
        print(read_first(write_report(report, out)))
    if as_json:
        print(json.dumps(report.model_dump(mode="json")))
    if not report.passed:
        raise typer.Exit(1)


def sentences(report: GateReport) -> str:
    """The verdict and each finding, a line each."""
    against = f"against {report.old}" if report.old else "as a first generation"
    found = "passes" if report.passed else f"breaks {counted(len(report.by_limit()), 'limit')}"
    lines = [f"generation {report.new} of {report.entity_type} {found}, {against}"]
    groups = zip(report.reasons(), report.by_limit(), strict=True)
    lines += [f"{reason}; look at {worst.look_at}" for reason, (worst, *_) in groups]
    lines += [f"not judged: {each}" for each in report.skipped]
    return "\n".join(lines)
