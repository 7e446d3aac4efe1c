"""The typer application: mounts every verb and turns errors into one sentence and an exit code.

Verbs live one file per group and are imported only when called, so that `retrieval --help` needs no torch. Commands of
packages that build on this one (the benchmarks) come in through the entry-point group `retrieval.commands`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from retrieval import __version__
from retrieval.errors import InvalidArgument, RetrievalError

# verb -> (module, function, one line for the overview)
_VERBS = {
    "demo": ("retrieval.cli.demo", "demo", "Run the whole path on the shipped catalogue."),
    "recipe": ("retrieval.cli.recipe", "recipe", "Prepare data sets and train on them, in one command."),
    "train": ("retrieval.cli.train", "train", "Train the query and entity towers together."),
    "evaluate": ("retrieval.cli.evaluate", "evaluate", "Measure a checkpoint on held-out pairs, beside baselines."),
    "enrich": ("retrieval.cli.enrich", "enrich", "Make the texts of entities out of logs and images."),
    "embed": ("retrieval.cli.embed", "embed", "Turn a table of entities into a table of embeddings."),
    "build": ("retrieval.cli.build", "build", "Build and publish a generation of sharded indexes."),
    "rebuild": ("retrieval.cli.rebuild", "rebuild", "Bring a generation up to its source at little cost."),
    "tune": ("retrieval.cli.tune", "tune", "Choose kind and parameters of a build by bounds on its worth and cost."),
    "verify": ("retrieval.cli.verify", "verify", "Measure recall and latency of a published generation again."),
    "check": ("retrieval.cli.check", "check", "Check every file of a generation, with a verdict each."),
    "gate": ("retrieval.cli.gate", "gate", "Hold a new generation against another, with limits."),
    "generations": ("retrieval.cli.generations", "generations", "List the generations of a store."),
    "publish": ("retrieval.cli.generations", "publish", "Make a generation the live one."),
    "rollback": ("retrieval.cli.generations", "rollback", "Make the previous generation the live one."),
    "gc": ("retrieval.cli.gc", "gc", "Remove old generations and what jobs that died left behind."),
    "serve": ("retrieval.cli.serve", "serve", "Serve the live generations of a store over gRPC."),
    "search": ("retrieval.cli.search", "search", "Ask a running server."),
    "upsert": ("retrieval.cli.upsert", "upsert", "Put fresh entities beside the live generation."),
    "delete": ("retrieval.cli.delete", "delete", "Take entities out of the answers at once."),
    "explain": ("retrieval.cli.explain", "explain", "Tell why an entity is not among the candidates."),
}


class _Verbs(TyperGroup):
    """Loads a verb's module when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_VERBS, *(point.name for point in entry_points(group="retrieval.commands"))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in _VERBS:
            module, function, _ = _VERBS[cmd_name]
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(name=cmd_name)(getattr(importlib.import_module(module), function))
            return _named(app, cmd_name)
        for point in entry_points(group="retrieval.commands", name=cmd_name):
            return _named(point.load(), cmd_name)
        return None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        # written from the table, because asking each verb for its own line would import all of them
        rows = [(verb, line) for verb, (_, _, line) in _VERBS.items()]
        rows += [(point.name, f"Commands of {point.module}.") for point in entry_points(group="retrieval.commands")]
        formatter.write_usage("retrieval", "COMMAND [ARGS]...")
        formatter.write_paragraph()
        formatter.write_text(str(self.help))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _named(app: typer.Typer, name: str) -> Any:
    command = typer.main.get_command(app)
    command.name = name
    return command


def _version(wanted: bool) -> None:
    if wanted:
        print(f"retrieval {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    app = typer.Typer(cls=_Verbs, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

    @app.callback(help="Train, build, serve and measure embedding retrieval; `retrieval COMMAND --help` tells more.")
    def _(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
        ] = False,
    ) -> None: ...

    try:
        typer.main.get_command(app)(prog_name="retrieval")
    except RetrievalError as error:
        print(f"retrieval: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidArgument) else 1)
    except OSError as error:
        # a full disk or a folder that may not be written is the machine's state, not a defect of the program
        print(f"retrieval: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
