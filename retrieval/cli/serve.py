"""`retrieval serve`: the live generations of a store behind a gRPC port."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from retrieval.serving.config import ServingSettings, make_settings

_FIELDS = ServingSettings.model_fields


def _help(name: str) -> str:
    return str(_FIELDS[name].description)


def serve(
    store: Annotated[Path, typer.Option(help=_help("store"))],
    checkpoint: Annotated[Path | None, typer.Option(help=_help("checkpoint"))] = None,
    host: Annotated[str, typer.Option(help=_help("host"))] = _FIELDS["host"].default,
    port: Annotated[int, typer.Option(help=_help("port"))] = _FIELDS["port"].default,
    threads: Annotated[int, typer.Option(help=_help("threads"))] = _FIELDS["threads"].default,
    shard_threads: Annotated[int, typer.Option(help=_help("shard_threads"))] = _FIELDS["shard_threads"].default,
    torch_threads: Annotated[int, typer.Option(help=_help("torch_threads"))] = _FIELDS["torch_threads"].default,
    precision: Annotated[str, typer.Option(help=_help("precision"))] = _FIELDS["precision"].default,
    drain_seconds: Annotated[float, typer.Option(help=_help("drain_seconds"))] = _FIELDS["drain_seconds"].default,
    max_batch: Annotated[int, typer.Option(help=_help("max_batch"))] = _FIELDS["max_batch"].default,
    max_candidates: Annotated[int, typer.Option(help=_help("max_candidates"))] = _FIELDS["max_candidates"].default,
    max_message_bytes: Annotated[int, typer.Option(help=_help("max_message_bytes"))] = _FIELDS[
        "max_message_bytes"
    ].default,
    max_answer_bytes: Annotated[int, typer.Option(help=_help("max_answer_bytes"))] = _FIELDS[
        "max_answer_bytes"
    ].default,
    probe_seconds: Annotated[float, typer.Option(help=_help("probe_seconds"))] = _FIELDS["probe_seconds"].default,
    checksum_threads: Annotated[int, typer.Option(help=_help("checksum_threads"))] = _FIELDS[
        "checksum_threads"
    ].default,
) -> None:
    """Serve the live generations of a store over gRPC until SIGTERM or SIGINT."""
    settings = make_settings(**locals())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells of every build variant it does not find
    # imported here so that `retrieval serve --help` needs no gRPC
    from retrieval.serving.server import run

    run(settings, lambda line: print(line, flush=True))
