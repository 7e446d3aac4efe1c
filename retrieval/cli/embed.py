"""`retrieval embed`: a table of entities into a folder of embeddings that `retrieval build` takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.progress import progress_printer

_DEFAULT_PART_ROWS = 2_048


def embed(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint folder; its space id goes into the embeddings.")],
    entities: Annotated[
        Path, typer.Option(help="Parquet or Arrow file with an id and text columns, or a folder of them.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the embeddings; a run that was stopped continues in it.")],
    id_column: Annotated[str, typer.Option(help="Column of the ids, string or integer.")] = "id",
    part_rows: Annotated[
        int, typer.Option(help="Rows per part: memory and the work lost by a killed run are one part.")
    ] = _DEFAULT_PART_ROWS,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the encoder; all cores when not given.")] = None,
    precision: Annotated[
        str,
        typer.Option(
            help="auto, float32 or bfloat16: auto takes bfloat16, which is faster, where the CPU has it; a run "
            "that continues keeps its own."
        ),
    ] = "float32",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Embed every entity that has text; the other columns travel along as attributes."""
    # torch takes seconds to import: only when the command runs
    from index_builders.embed import embed as run_embedding
    from index_builders.embed import plan_embedding
    from retrieval.towers.entity import EntityTower

    tower = EntityTower.load(checkpoint, threads=threads, precision=precision)
    plan = plan_embedding(tower, entities, out, id_column=id_column, part_rows=part_rows)
    with progress_printer("embed") as progress:
        report = run_embedding(plan, tower, progress=progress)
    typer.echo(f"{report.rows:,} embeddings of space {report.space_id} in {report.out} ({report.parts} parts)")
    if report.resumed:
        typer.echo(f"{report.resumed} parts were there from an earlier run")
    if report.without_text:
        typer.echo(
            f"{report.without_text:,} rows have no text and were left out, for example {', '.join(report.examples)}"
        )
    if as_json:
        typer.echo(json.dumps(report.model_dump(mode="json")))
