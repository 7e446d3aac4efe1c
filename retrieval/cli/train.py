"""`retrieval train`: a configuration in, a checkpoint out. Under `torchrun`, all its processes train one model."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidParams


def train(
    config: Annotated[Path, typer.Option(help="TOML file that says what is trained on what")],
    out: Annotated[Path, typer.Option(help="folder of the checkpoint; must not exist, so that nothing is overwritten")],
    work: Annotated[
        Path | None,
        typer.Option(help="folder of resumable states and the log; a run that was killed goes on from there"),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE over the file, VALUE in JSON: run.steps=100")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last, for programs")] = False,
) -> None:
    """Train the query tower and the entity tower together, and write a checkpoint."""
    from retrieval.training.config import read_config
    from retrieval.training.ranks import joined_ranks
    from retrieval.training.trainer import Trainer

    settings = read_config(config, dict(_override(text) for text in override or ()))
    folder = work or out.with_name(out.name + ".work")
    with joined_ranks() as ranks:
        shown: Any = progress_printer("train") if ranks.leads else nullcontext()
        with shown as progress:
            result = Trainer(settings, work=folder, ranks=ranks, progress=progress).run(out)
        if not ranks.leads:
            return
    typer.echo(f"checkpoint {out}: space {result.config.space_id}, {result.steps} steps in {result.seconds:.0f} s")
    for task, recall in result.validation.items():
        typer.echo(f"  validation recall@10 of {task}: {recall:.4f} (step {result.best_step})")
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "checkpoint": str(out),
                    "space_id": result.config.space_id,
                    "steps": result.steps,
                    "best_step": result.best_step,
                    "validation_recall@10": result.validation,
                    "seconds": round(result.seconds, 1),
                }
            )
        )


def _override(text: str) -> tuple[str, Any]:
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise InvalidParams(f"--set {text!r} is not acceptable: write NAME=VALUE, for example run.steps=100")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string
