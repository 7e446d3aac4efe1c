"""`retrieval explain`: why an entity is not among the candidates of a text, from a running server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from retrieval.cli import server_options as options
from retrieval.client import Entity
from retrieval.errors import InvalidQuery


def explain(
    text: Annotated[str, typer.Argument(help="what a person would type")],
    entity_id: Annotated[str, typer.Argument(metavar="ID", help="the entity that is missing")],
    entity_type: Annotated[
        str | None, typer.Option(help="its type, such as pin or product; may be left out where one type is served")
    ] = None,
    target: options.Target = "127.0.0.1:8980",
    k: Annotated[int, typer.Option("-k", "--k", help="how many candidates it should have been among")] = 10,
    ef: options.Ef = None,
    nprobe: options.Nprobe = None,
    rescore: options.Rescore = None,
    min_recall: options.MinRecall = None,
    filter_json: options.FilterJson = None,
    crowd: options.Crowd = None,
    timeout: options.Timeout = 10.0,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token_file: options.TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of lines")] = False,
) -> None:
    """Say why an entity is not among the candidates of a text, or where it ranks."""
    narrowed, crowding = options.read_filter(filter_json), options.read_crowding(crowd)
    with options.connect(target, timeout, ca, certificate, key, token_file) as client:
        served = {each.entity_type: each.id_type for each in client.describe().generations}
        found = client.explain(
            text,
            _entity(served, entity_type, entity_id),
            k=k,
            effort=options.read_effort(ef, nprobe, rescore),
            filter=narrowed,
            crowding=crowding,
            min_recall=min_recall,
        )
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    console = Console()
    console.print(Text(f"{found.verdict}: {found.reason}"))
    figures = {"score": found.score, "exact rank": found.exact_rank, "rank": found.rank}
    if found.shard is not None:
        part = found.shard
        figures |= {f"rank in {part.shard}": part.rank, "list rank": part.list_rank, "nprobe": part.nprobe}
        figures |= {"approximate rank": part.approximate_rank, "rescored": part.pool}
    console.print(Text(" · ".join(f"{name} {_figure(value)}" for name, value in figures.items() if value is not None)))


def _figure(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _entity(served: dict[str, str], entity_type: str | None, entity_id: str) -> Entity:
    """The entity with an id of its type's id type. served: id type of each entity type."""
    if entity_type is None and len(served) == 1:
        (entity_type,) = served
    if entity_type not in served:
        named = "no entity type is given" if entity_type is None else f"entity type {entity_type!r} is not served"
        raise InvalidQuery(f"{named}: choose one with --entity-type: {', '.join(served)}")
    if served[entity_type] != "int64":
        return Entity(entity_type=entity_type, id=entity_id)
    try:
        return Entity(entity_type=entity_type, id=int(entity_id))
    except ValueError:
        raise InvalidQuery(f"{entity_id!r} is not a number, and ids of {entity_type} are: give its number") from None
