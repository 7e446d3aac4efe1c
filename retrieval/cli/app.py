"""The typer application: mounts every verb and turns errors into one sentence and an exit code.

Verbs live one file per group and are imported only when called, so that `retrieval --help` needs no torch. Commands of
packages that build on this one (the benchmarks) come in through the entry-point group `retrieval.commands`.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import entry_points
from typing import Any

import click
import typer
import typer.main

from retrieval import __version__
from retrieval.errors import InvalidArgument, RetrievalError

# verb -> (module, function, one line for the overview)
_VERBS = {
    "demo": ("retrieval.cli.demo", "demo", "Run the whole path on the shipped catalogue."),
    "embed": ("retrieval.cli.embed", "embed", "Turn a table of entities into a table of embeddings."),
    "build": ("retrieval.cli.build", "build", "Build and publish a generation of sharded indexes."),
    "verify": ("retrieval.cli.verify", "verify", "Measure recall and latency of a published generation again."),
    "check": ("retrieval.cli.generations", "check", "Check every file of a generation, with a verdict each."),
    "generations": ("retrieval.cli.generations", "generations", "List the generations of a store."),
    "publish": ("retrieval.cli.generations", "publish", "Make a generation the live one."),
    "rollback": ("retrieval.cli.generations", "rollback", "Make the previous generation the live one."),
    "serve": ("retrieval.cli.serve", "serve", "Serve the live generations of a store over gRPC."),
    "search": ("retrieval.cli.search", "search", "Ask a running server."),
}


class _Verbs(click.Group):
    """Loads a verb's module when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_VERBS, *(point.name for point in entry_points(group="retrieval.commands"))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _VERBS:
            module, function, _ = _VERBS[cmd_name]
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(name=cmd_name)(getattr(importlib.import_module(module), function))
            return _named(typer.main.get_command(app), cmd_name)
        for point in entry_points(group="retrieval.commands", name=cmd_name):
            return _named(typer.main.get_command(point.load()), cmd_name)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(verb, line) for verb, (_, _, line) in _VERBS.items()]
        rows += [(point.name, "Commands of another package.") for point in entry_points(group="retrieval.commands")]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _named(command: Any, name: str) -> click.Command:
    command.name = name
    return command  # type: ignore[no-any-return]


def main() -> None:
    """Entry point of the console script."""
    group = _Verbs(name="retrieval", help="Train, build, serve and measure embedding retrieval.")
    click.version_option(__version__, prog_name="retrieval")(group)
    try:
        sys.exit(group.main(standalone_mode=False) or 0)
    except RetrievalError as error:
        print(f"retrieval: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidArgument) else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("retrieval: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # the reader of our output has gone (`… | head`): not an error of ours, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
