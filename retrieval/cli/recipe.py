"""`retrieval recipe`: from data sets to a trained checkpoint with one command that goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from retrieval.cli.progress import progress_printer
from retrieval.cli.train import parse_override


def recipe(
    name: Annotated[str, typer.Argument(help="demo: the shipped catalogue; real: it and the data sets of --data")],
    out: Annotated[
        Path, typer.Option(help="folder for tables, states and checkpoint; what is finished there is not done again")
    ],
    data: Annotated[
        Path | None, typer.Option(help="folder of the data sets whose licence keeps them out of this package")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE over the recipe's settings, VALUE in JSON: run.steps=100"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last, for programs")] = False,
) -> None:
    """Prepare tables from the sources, encode them once, train, and write the checkpoint OUT/tower."""
    # torch takes seconds to import: only when the command runs
    from retrieval.training.recipes.run import run_recipe

    overrides = dict(parse_override(text) for text in override or ())
    with progress_printer(name) as progress:
        result = run_recipe(name, out, data=data, overrides=overrides, progress=progress)
    what = f"{result.steps} steps" if result.trained else "trained by an earlier run"
    typer.echo(f"checkpoint {result.tower}: space {result.space_id}, {what}, {result.seconds:.0f} s")
    for task, recall in result.validation.items():
        typer.echo(f"  validation recall@10 of {task}: {recall:.4f} (step {result.best_step})")
    for space in result.compatible:
        typer.echo(f"  its queries may search {space} too")
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "recipe": result.recipe,
                    "checkpoint": str(result.tower),
                    "space_id": result.space_id,
                    "compatible": list(result.compatible),
                    "steps": result.steps,
                    "best_step": result.best_step,
                    "validation_recall@10": result.validation,
                    "trained": result.trained,
                    "seconds": round(result.seconds, 1),
                }
            )
        )
