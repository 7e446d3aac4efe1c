"""`retrieval train`: a configuration in, a checkpoint out. Under `torchrun`, all its processes train one model."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrieval.cli.progress import progress_printer
from retrieval.errors import InvalidArgument, InvalidParams

if TYPE_CHECKING:
    from retrieval.training.replay import Replay
    from retrieval.training.trainer import TrainResult


def train(
    config: Annotated[Path, typer.Option(help="TOML file that says what is trained on what")],
    out: Annotated[
        Path | None,
        typer.Option(help="folder of the checkpoint; must not exist, so that nothing is overwritten"),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="folder of resumable states and the log; a run that was killed goes on from there"),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE over the file, VALUE in JSON: run.steps=100")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="bad-step-N.json of a training that stopped: compute that step again and tell what is not finite"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object last, for programs")] = False,
) -> None:
    """Train the query tower and the entity tower together, and write a checkpoint."""
    if (out is None) == (replay is None):
        raise InvalidParams("give --out for the checkpoint of a training, or --replay for a step that stopped one")
    from retrieval.training.config import read_config
    from retrieval.training.ranks import joined_ranks
    from retrieval.training.trainer import Trainer

    settings = read_config(config, dict(parse_override(text) for text in override or ()))
    if out is not None and out.exists():  # before the data is read, not after
        raise InvalidArgument(f"{out} exists already: remove it or choose another folder for the checkpoint")
    folder = work or (out.with_name(out.name + ".work") if out is not None else replay.parent if replay else Path())
    with joined_ranks() as ranks:
        shown: Any = progress_printer("train") if ranks.leads else nullcontext()
        with shown as progress:
            trainer = Trainer(settings, work=folder, ranks=ranks, progress=progress)
            done = trainer.run(out) if out is not None else None
            again = trainer.replay(replay) if replay is not None else None
        if not ranks.leads:
            return
    if done is not None and out is not None:
        _tell_trained(done, out, as_json)
    if again is not None:
        _tell_replay(again, as_json)


def _tell_trained(result: TrainResult, out: Path, as_json: bool) -> None:
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


def _tell_replay(again: Replay, as_json: bool) -> None:
    typer.echo(f"step {again.step} again: loss {again.loss}")
    for task, parts in again.terms.items():
        typer.echo(f"  {task}: in-batch {parts['in_batch']}, random {parts['random']}")
    kinds = {
        "weights": again.weights,
        "gradients": again.gradients,
        "vectors of queries": again.queries,
        "vectors of answers": again.answers,
    }
    for kind, names in kinds.items():
        typer.echo(f"  {kind} that are not finite: {', '.join(names) or 'none'}")
    if as_json:  # JSON has no NaN
        body = asdict(again)
        body["loss"] = str(again.loss)
        body["terms"] = {
            task: {part: str(value) for part, value in terms.items()} for task, terms in body["terms"].items()
        }
        typer.echo(json.dumps(body))


def parse_override(text: str) -> tuple[str, Any]:
    """One NAME=VALUE of --set; InvalidParams when it is not of that form. VALUE is JSON, a bare word is a string."""
    name, mark, value = text.partition("=")
    if not mark or not name:
        raise InvalidParams(f"--set {text!r} is not acceptable: write NAME=VALUE, for example run.steps=100")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word is a string
