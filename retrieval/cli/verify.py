"""`retrieval verify`: measure recall and latency of a published generation again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from index_builders.remeasure import remeasure
from retrieval.cli.progress import progress_printer
from retrieval.store import Store


def verify(
    store: Annotated[Path, typer.Argument(help="The store.")],
    entity_type: Annotated[str, typer.Argument(help="The entity type.")],
    generation: Annotated[str | None, typer.Argument(help="Generation; the live one if left out.")] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Real query embeddings (.npy or Parquet); else perturbed items.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Queries to measure with; more for steadier figures.")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Check every byte of a generation and measure its recall and latency, effort by effort."""
    house = Store(store)
    opened = house.open(entity_type, generation or house.current(entity_type))
    with progress_printer(f"verify {entity_type}") as progress:
        measured, against = remeasure(opened, queries_file=queries, count=count, progress=progress)
    table = Table(title=f"{opened.manifest.id}: one thread, {against}")
    for name in ("effort", "queries", "allowed", "recall@10", "recall@100", "recall@1000", "p50 ms", "p95 ms"):
        table.add_column(name, justify="left" if name in {"effort", "queries"} else "right")
    for point in measured.frontier:
        effort = ", ".join(f"{name} {value}" for name, value in point.params.items()) or "exact"
        figures = (point.recall_at_10, point.recall_at_100, point.recall_at_1000, point.p50_ms, point.p95_ms)
        allowed = "all" if point.filter_band is None else f"{point.filter_band:.1%}"
        told = ("" if figure is None else f"{figure:.4f}" for figure in figures)
        table.add_row(effort, point.query_kind, allowed, *told)
    Console().print(table)
    if as_json:
        summary = {
            "generation": opened.manifest.id,
            "against": against,
            "frontier": [point.model_dump() for point in measured.frontier],
            "recorded": [point.model_dump() for point in opened.manifest.frontier],
        }
        print(json.dumps(summary))
