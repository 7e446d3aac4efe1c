"""`retrieval search`: one query to a running server, as a table for people or one JSON object for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from retrieval.cli import query_options
from retrieval.cli import server_options as options
from retrieval.client import Entity, Ranking, RetrievalClient, SearchResult, Source, Vector

_TITLE_COLUMNS = ("title", "name", "text")  # the first of these that the served types have is shown


def search(
    text: Annotated[str | None, typer.Argument(help="what a person would type")] = None,
    vector: query_options.VectorWords = None,
    space_id: query_options.SpaceId = None,
    like: query_options.Like = None,
    target: options.Target = "127.0.0.1:8980",
    entity_type: Annotated[list[str] | None, typer.Option(help="search only this type; may be given again")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="how many candidates to show")] = 10,
    ef: options.Ef = None,
    nprobe: options.Nprobe = None,
    rescore: options.Rescore = None,
    min_recall: options.MinRecall = None,
    filter_json: options.FilterJson = None,
    crowd: options.Crowd = None,
    grouped: Annotated[
        bool, typer.Option("--grouped", help="one ranking per entity type instead of one over all")
    ] = False,
    attribute: Annotated[list[str] | None, typer.Option(help="column to show; may be given again")] = None,
    timeout: options.Timeout = 10.0,
    ca: options.Ca = None,
    certificate: options.Certificate = None,
    key: options.Key = None,
    token_file: options.TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Ask a running server for the candidates of a text, of a vector, or of an entity that it holds."""
    wanted, crowding = options.read_filter(filter_json), options.read_crowding(crowd)
    with options.connect(target, timeout, ca, certificate, key, token_file) as client:
        query = query_options.read_query(client, text, vector, space_id, like)
        columns = attribute or _title_column(client, entity_type or [])
        result = client.search(
            query,
            entity_types=entity_type or [],
            k=k,
            effort=options.read_effort(ef, nprobe, rescore),
            grouped=grouped,
            attributes=columns,
            filter=wanted,
            crowding=crowding,
            min_recall=min_recall,
        )
    if as_json:
        print(json.dumps(_plain(query, result), ensure_ascii=False))
        return
    console = Console()
    for ranking in result.candidates:
        console.print(_table(ranking, columns))
    for source in result.sources:
        console.print(_plain_text(_worth(source)))
    timings = result.timings
    console.print(
        f"encode {timings.encode_ns / 1e6:.2f} ms · search {timings.search_ns / 1e6:.2f} ms · merge "
        f"{timings.merge_ns / 1e6:.2f} ms · total {timings.total_ns / 1e6:.2f} ms",
        highlight=False,
    )


def _title_column(client: RetrievalClient, entity_types: list[str]) -> list[str]:
    asked = [each for each in client.describe().generations if not entity_types or each.entity_type in entity_types]
    known = {name for each in asked for name in each.attributes}
    return [name for name in _TITLE_COLUMNS if name in known][:1]


def _table(ranking: Ranking, columns: list[str]) -> Table:
    # texts of a catalogue are data: brackets in them are not markup, and control characters not for the terminal
    table = Table(title=_plain_text(ranking.entity_type or ""), title_justify="left")
    for heading in ("rank", "type", "id"):
        table.add_column(heading, justify="right" if heading == "rank" else "left", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for name in columns:
        table.add_column(_plain_text(name))
    for each in ranking:
        values = ["" if each.attributes[name] is None else str(each.attributes[name]) for name in columns]
        cells = (str(each.rank), each.entity_type, str(each.id), f"{each.score:.4f}", *values)
        table.add_row(*(_plain_text(cell) for cell in cells))
    return table


def _plain_text(value: str) -> Text:
    return Text("".join(each if each.isprintable() else " " for each in value))


def _worth(source: Source) -> str:
    matches = "" if source.matches is None else f" · the filter allows {source.matches:,}"
    recall = "not measured at this effort" if source.recall_at_100 is None else f"{source.recall_at_100:.3f}"
    effort = ", ".join(f"{name} {value}" for name, value in asdict(source.effort).items() if value is not None)
    line = (
        f"{source.entity_type}: recall@100 {recall} · coverage {source.coverage:.3f} of {source.rows:,} rows{matches}"
        f" · generation {source.generation} · effort {effort or 'exact'}"
    )
    return " · ".join([line, *source.degraded])


def _plain(query: str | Vector | Entity, result: SearchResult) -> dict[str, Any]:
    return {
        "query": query_options.plain_query(query),
        "query_space_id": result.query_space_id,
        "candidates": [
            {"entity_type": ranking.entity_type, "ranking": [asdict(each) for each in ranking]}
            for ranking in result.candidates
        ],
        "sources": [asdict(source) for source in result.sources],
        "timings": asdict(result.timings),
    }
