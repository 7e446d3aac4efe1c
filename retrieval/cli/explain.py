"""`retrieval explain`: why an entity is not among the candidates of a query, from a running server."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from retrieval.cli import query_options
from retrieval.cli import server_options as options
from retrieval.client import Entity
from retrieval.errors import InvalidQuery


def explain(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="what a person would type; left out with --vector or --like")
    ],
    entity_id: Annotated[str | None, typer.Argument(metavar="ID", help="the entity that is missing")] = None,
    entity_type: Annotated[
        str | None, typer.Option(help="its type, such as pin or product; may be left out where one type is served")
    ] = None,
    vector: query_options.VectorWords = None,
    space_id: query_options.SpaceId = None,
    like: query_options.Like = None,
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
    """Say why an entity is not among the candidates of a text, a vector or an entity, or where it ranks."""
    words: str | None = text
    if entity_id is None:
        if vector is None and like is None:
            raise InvalidQuery(
                f"only {text!r} is given: give a text and the id of what is missing, or --vector or --like and the id"
            )
        words, entity_id = None, text  # the one word left is the id
    narrowed, crowding = options.read_filter(filter_json), options.read_crowding(crowd)
    with options.connect(target, timeout, ca, certificate, key, token_file) as client:
        id_types = {each.entity_type: each.id_type for each in client.describe().generations}
        found = client.explain(
            query_options.read_query(client, words, vector, space_id, like),
            _entity(id_types, entity_type, entity_id),
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
    return query_options.make_entity(entity_type, entity_id, served[entity_type])
