"""`retrieval bench`: the measurements by name, and all of them in one go.

Each measurement is a module with `main(arguments)` that prints tables and ends with one JSON line.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from bench.together import MEASUREMENTS, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Measure recall and latency.")


def _add(name: str, module: str, line: str) -> None:
    # each measurement parses its own arguments, --help included
    @app.command(
        name=name,
        help=line,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def _(context: typer.Context) -> None:
        importlib.import_module(module).main(context.args)


for _measurement in MEASUREMENTS:
    _add(_measurement.name, _measurement.module, _measurement.line)
_add("report", "bench.recall_latency.report", "Tables, plots and one HTML file from the rows of recall-latency.")


@app.command(name="all")
def run_all(
    full: Annotated[bool, typer.Option("--full", help="at the sizes of the README, hours in all")] = False,
    only: Annotated[list[str] | None, typer.Option(help="only this measurement; may be given again")] = None,
    out: Annotated[Path, typer.Option(help="folder of the report")] = Path("bench/reports/figures"),
) -> None:
    """Run every measurement, one after another, and keep what each printed."""
    raise typer.Exit(run(full=full, only=only or [], out=out))
