"""`retrieval serve`: the live generations of a store behind a gRPC port."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from retrieval.errors import RetrievalError
from retrieval.serving.config import ServingSettings
from retrieval.serving.operate.settings_file import read_settings, write_settings


def _help(name: str) -> str:
    field = ServingSettings.model_fields[name]
    default = "" if field.is_required() or field.default is None else f" [default: {field.default}]"
    return f"{field.description}{default}"


def serve(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings, by their names; options given here win over it")
    ] = None,
    store: Annotated[str | None, typer.Option(help=_help("store"))] = None,
    checkpoint: Annotated[Path | None, typer.Option(help=_help("checkpoint"))] = None,
    role: Annotated[str | None, typer.Option(help=_help("role"))] = None,
    shards: Annotated[str | None, typer.Option(help=_help("shards"))] = None,
    host: Annotated[str | None, typer.Option(help=_help("host"))] = None,
    port: Annotated[int | None, typer.Option(help=_help("port"))] = None,
    workers: Annotated[int | None, typer.Option(help=_help("workers"))] = None,
    threads: Annotated[int | None, typer.Option(help=_help("threads"))] = None,
    torch_threads: Annotated[int | None, typer.Option(help=_help("torch_threads"))] = None,
    metrics_port: Annotated[int | None, typer.Option(help=_help("metrics_port"))] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="any other setting, such as --set max_batch=500; may be given again; --check-config lists them all",
        ),
    ] = None,
    check_config: Annotated[
        bool,
        typer.Option(
            "--check-config",
            help="do not serve: check settings, store, checkpoint, certificates and tokens, print the settings in "
            "force, exit with 0, or with 2 and the reason",
        ),
    ] = False,
) -> None:
    """Serve the live generations of a store over gRPC until SIGTERM or SIGINT."""
    options = {
        "store": store,
        "checkpoint": checkpoint,
        "role": role,
        "shards": shards,
        "host": host,
        "port": port,
        "workers": workers,
        "threads": threads,
        "torch_threads": torch_threads,
        "metrics_port": metrics_port,
    }
    settings = read_settings(config, pairs or (), options)
    if check_config:
        _check(settings)
        return
    # imported here so that `retrieval serve --help` needs no gRPC
    from retrieval.serving.operate.logs import set_up

    set_up(settings.log_format)
    if settings.workers > 1:
        from retrieval.serving.operate.workers import supervise as run
    else:
        from retrieval.serving.operate.process import run

    run(settings, lambda line: print(line, flush=True))


def _check(settings: ServingSettings) -> None:
    from retrieval.serving.operate.check import check

    try:
        found = check(settings)
    except RetrievalError as error:
        print(f"retrieval: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(write_settings(settings), end="")
    for line in found:
        print(f"# {line}")
