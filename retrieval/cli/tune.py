"""`retrieval tune`: which kind and parameters keep the bounds on recall, latency and bytes, and why not the others."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from index_builders.query_texts import encode_queries
from index_builders.settings import make_settings
from index_builders.tune import TuneReport, Verdict, make_bounds
from index_builders.tune import tune as run_tuning
from index_builders.tune.sample import LEAST_ROWS, SAMPLE_ROWS
from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidParams


def tune(
    source: Annotated[Path, typer.Argument(help="Parquet or Arrow file, a folder of them, or a float32 .npy.")],
    target_recall: Annotated[float, typer.Option(help="Recall@100 to reach.")] = 0.95,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="95th percentile that a query may take, one thread, all shards.")
    ] = None,
    max_bytes_per_row: Annotated[
        float | None, typer.Option(help="Bytes of index files per row, which serving keeps in memory.")
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="Ids of a .npy source: int64 .npy, text or Parquet.")] = None,
    space_id: Annotated[
        str | None, typer.Option(help="Space of the embeddings; only needed where the source does not say.")
    ] = None,
    metric: Annotated[str, typer.Option(help="cosine, ip or l2; cosine normalises the rows.")] = "cosine",
    shards: Annotated[int, typer.Option(help="Parts that the build will have: they set the rows per index.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of every build tried on it.")] = 0,
    sample_rows: Annotated[
        int,
        typer.Option(min=LEAST_ROWS, help="Rows to try candidates on: more come nearer to the truth, and take longer."),
    ] = SAMPLE_ROWS,
    queries: Annotated[Path | None, typer.Option(help="Real query embeddings to measure with; else items.")] = None,
    query_texts: Annotated[
        Path | None,
        typer.Option(help="Real query texts, one a line or a Parquet column `text`; goes with --checkpoint."),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint whose query tower encodes --query-texts.")] = None,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    embedding_column: Annotated[str, typer.Option(help="Column of the embeddings.")] = "embedding",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
) -> None:
    """Try every kind of index on a sample and choose what keeps the bounds, as `retrieval build --kind auto` does."""
    bounds = make_bounds(
        target_recall=target_recall, max_latency_ms=max_latency_ms, max_bytes_per_row=max_bytes_per_row
    )
    with tempfile.TemporaryDirectory(prefix="retrieval-queries-") as folder:
        if query_texts is not None or checkpoint is not None:
            queries = encoded_queries(
                query_texts,
                checkpoint,
                queries,
                Path(folder),
                count=200,
                seed=seed,
                source=source,
                space_id=space_id,
            )
        settings = make_settings(
            source=source,
            ids=ids,
            store=Path(folder),
            entity_type="any",
            space_id=space_id,
            metric=metric,
            shards=shards,
            seed=seed,
            queries=queries,
            id_column=id_column,
            embedding_column=embedding_column,
        )
        with progress_printer("tune") as progress:
            report = run_tuning(settings, bounds, sample_rows=sample_rows, progress=progress)
    print_table(report)
    report.chosen()
    command, table = recipe(report, source, metric=metric, seed=seed)
    print(f"build it with\n    {command}\nor in the file of a rebuild job\n{textwrap.indent(table, '    ')}")
    if as_json:
        print(json.dumps({**_summary(report), "command": command, "job": table}))


def encoded_queries(
    texts: Path | None,
    checkpoint: Path | None,
    queries: Path | None,
    folder: Path,
    *,
    count: int,
    seed: int,
    source: Path,
    space_id: str | None,
) -> Path:
    """The file of query vectors that `--query-texts` and `--checkpoint` make; InvalidParams when one is missing."""
    if texts is None or checkpoint is None:
        raise InvalidParams("--query-texts and --checkpoint go together: the tower of the one encodes the other")
    if queries is not None:
        raise InvalidParams("--queries and --query-texts both name the queries to measure with: give one of them")
    return encode_queries(texts, checkpoint, folder, count=count, seed=seed, source=source, space_id=space_id)


def print_table(report: TuneReport) -> None:
    """Every candidate with what it is expected to be worth, and why it was chosen or not."""
    how = "measured on" if report.sample_rows >= report.shard_rows else "extrapolated from"
    table = Table(
        title=f"{report.shards} shards of {report.shard_rows:,} rows, {how} {report.sample_rows:,} of them with "
        f"{'real queries' if report.query_kind == 'real' else 'perturbed items'}",
        show_lines=True,
    )
    table.add_column("candidate, and why or why not")
    table.add_column("effort")
    for name in ("recall\n@100", "p95 ms", "bytes\nper row"):
        table.add_column(name, justify="right", no_wrap=True)
    for verdict in report.verdicts:
        table.add_row(*_cells(verdict), style="bold" if verdict.chosen else None)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def _cells(verdict: Verdict) -> tuple[str, ...]:
    said = f"{verdict.candidate.name}\n{'chosen: ' if verdict.chosen else ''}{verdict.reason}"
    if verdict.nearest is None:
        return said, "", "", "", ""
    nearest = verdict.nearest
    effort = "\n".join(f"{name} {value}" for name, value in nearest.search.items() if value) or "exact"
    return said, effort, f"{nearest.recall_at_100:.4f}", f"{nearest.p95_ms:.3g}", f"{nearest.bytes_per_row:.0f}"


def recipe(report: TuneReport, source: Path, *, metric: str, seed: int) -> tuple[str, str]:
    """The command that builds the choice, STORE and TYPE left open, and the lines of a rebuild job's file that do."""
    choice, reach = report.chosen(), report.bounds.target_recall
    # what a kind resolves by its rows, such as the number of lists, is left to the build
    kind, params = str(choice.candidate.kind), choice.candidate.params
    shown = {"shards": report.shards, "kind": kind, "metric": metric, "seed": seed, "target_recall": reach}
    options = {**shown, **params}
    command = f"retrieval build {shlex.quote(str(source))} --store STORE --entity-type TYPE " + " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in options.items()
    )
    inline = ", ".join(f"{name} = {json.dumps(value)}" for name, value in params.items())
    lines = [f"{name} = {json.dumps(value)}" for name, value in shown.items()]
    return command, "\n".join(["[index]", *lines, f"params = {{ {inline} }}"])


def _summary(report: TuneReport) -> dict[str, Any]:
    choice = report.chosen()
    return {
        "kind": str(choice.candidate.kind),
        "params": choice.params,
        "search": choice.search,
        "bounds": report.bounds.model_dump(),
        "rows": report.rows,
        "shards": report.shards,
        "shard_rows": report.shard_rows,
        "sample_rows": report.sample_rows,
        "query_kind": report.query_kind,
        "candidates": [
            {
                "name": verdict.candidate.name,
                "kind": str(verdict.candidate.kind),
                "chosen": verdict.chosen,
                "verdict": verdict.reason,
                "search": verdict.nearest.search if verdict.nearest else None,
                "recall_at_100": verdict.nearest.recall_at_100 if verdict.nearest else None,
                "p95_ms": verdict.nearest.p95_ms if verdict.nearest else None,
                "bytes_per_row": verdict.nearest.bytes_per_row if verdict.nearest else None,
            }
            for verdict in report.verdicts
        ],
    }
