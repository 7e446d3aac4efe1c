"""`retrieval demo`: the whole path on the shipped catalogue, measured as it goes.

Trains the tower with the recipe `demo` or finds it trained, embeds products and pins, builds HNSW shards of the one and
IVF-PQ shards of the other, serves them from a process of their own, asks real queries over gRPC and holds every answer
against exact search over float32. A second run in the same folder finds the first one's work and repeats the
measurements.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from index_builders.build import build
from index_builders.embed import EmbedReport, embed, plan_embedding
from index_builders.settings import make_settings
from retrieval import catalogue
from retrieval.cli.demo_measure import Answered, Worth, judged_ndcg, judged_queries, measure, pin_queries
from retrieval.cli.demo_server import serving
from retrieval.cli.demo_tower import ProductTower, served_tables, trained_tower
from retrieval.cli.progress import progress_printer
from retrieval.client import RetrievalClient
from retrieval.towers.entity import EntityTower
from retrieval.towers.query import QueryTower
from retrieval.types import F32, IndexKind

KINDS = {"product": IndexKind.HNSW, "pin": IndexKind.IVFPQ}
SHARDS = 4
PIN_QUERIES = 200
WARM_UP_QUERIES = 10
SHOWN = 3  # candidates printed per query and entity type


def demo(
    folder: Annotated[
        Path, typer.Option(help="where tower, embeddings and store are kept; a second run reuses them")
    ] = Path(".demo"),
    pins: Annotated[int, typer.Option(help="pins of the catalogue to index, up to 69,202; more take longer")] = 20_000,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="leave the server up and print the command that asks it")
    ] = False,
) -> None:
    """Train, embed, build, serve and measure the shipped catalogue; the last line is one JSON object of figures."""
    started = time.perf_counter()
    console = Console()
    tables = served_tables(pins)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = trained_tower(folder / "recipe")
    checkpoint = recipe.tower
    queries = {"product": judged_queries(), "pin": pin_queries(PIN_QUERIES)}
    tower = QueryTower.load(checkpoint)
    entity_towers = {"product": ProductTower.of(recipe), "pin": EntityTower.load(checkpoint)}
    vectors = {name: tower.encode(texts) for name, texts in queries.items()}
    embedded: dict[str, EmbedReport] = {}
    for name, table in tables.items():
        embedded[name] = _embed(folder, name, table, entity_towers[name])
        _build(folder, name, embedded[name], vectors[name])
    del entity_towers
    with (
        serving(folder / "store", checkpoint, stay=keep_serving) as server,
        RetrievalClient(server.target) as client,
    ):
        _show_samples(console, client)
        worth: dict[IndexKind, Worth] = {}
        for name, texts in queries.items():
            answers = _ask(client, name, texts)
            worth[KINDS[name]] = measure(list(answers.values()), vectors[name], embedded[name].out)
            if name == "product":
                ndcg = judged_ndcg({query: answer.ids for query, answer in answers.items()})
        rows = {each.entity_type: each.rows for each in client.describe().generations}
        console.print(_worth_table(worth, rows))
        console.print(
            f"nDCG@10 of the judged product queries: {ndcg.mean:.3f} "
            f"(95 % interval {ndcg.low:.3f} to {ndcg.high:.3f}, {ndcg.queries} queries with a relevant product)",
            highlight=False,
            soft_wrap=True,
        )
        if keep_serving:
            ask = shlex.join([*_this_command(), "search", "sailing boats", "--target", server.target])
            console.print(f"Still serving. Ask it: {ask}\nStop it: kill {server.pid}", highlight=False, soft_wrap=True)
    figures = {
        "entities": rows,
        "kinds": {str(kind): each.to_json() for kind, each in worth.items()},
        "ndcg@10": round(ndcg.mean, 4),
        "training": {"run_now": recipe.trained, "seconds": round(recipe.seconds, 1)},
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(figures), flush=True)


def _this_command() -> list[str]:
    """The words that started this program, so that what is printed can be typed."""
    return [sys.argv[0]] if Path(sys.argv[0]).name == "retrieval" else [sys.executable, "-m", "retrieval.cli"]


def _embed(folder: Path, entity_type: str, table: pa.Table, tower: EntityTower) -> EmbedReport:
    entities = folder / "entities" / f"{entity_type}.parquet"
    entities.parent.mkdir(exist_ok=True)
    pq.write_table(table, entities)
    # a name of its own for each space and size, since a folder of embeddings takes one source only
    out = folder / "embeddings" / tower.space_id / f"{entity_type}-{table.num_rows}"
    with progress_printer(f"{entity_type}s") as progress:
        return embed(plan_embedding(tower, entities, out), tower, progress=progress)


def _build(folder: Path, entity_type: str, embedded: EmbedReport, queries: F32) -> None:
    query_file = folder / f"{entity_type}_queries.npy"
    np.save(query_file, queries)
    settings = make_settings(
        source=embedded.out,
        store=folder / "store",
        entity_type=entity_type,
        kind=KINDS[entity_type],
        shards=SHARDS,
        queries=query_file,
    )
    with progress_printer(f"{entity_type}s") as progress:
        build(settings, progress=progress)


def _ask(client: RetrievalClient, entity_type: str, texts: list[str]) -> dict[str, Answered]:
    answers = {}
    for text in texts[:WARM_UP_QUERIES]:
        client.search(text, entity_types=[entity_type], k=100)
    for text in texts:
        begun = time.perf_counter_ns()
        result = client.search(text, entity_types=[entity_type], k=100)
        latency_ns = time.perf_counter_ns() - begun
        answers[text] = Answered(ids=[str(each.id) for each in result.candidates[0]], latency_ns=latency_ns)
    return answers


def _show_samples(console: Console, client: RetrievalClient) -> None:
    for home, texts in catalogue.sample_queries().items():
        for text in texts:
            result = client.search(text, k=SHOWN, grouped=True, attributes=["title"])
            table = Table(title=f"“{text}”", title_justify="left", caption=f"a {home} query", caption_justify="left")
            for heading, width in (("type", 7), ("id", 8), ("score", 5), ("title", None)):
                table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=width)
            for ranking in result.candidates:
                for each in ranking:
                    cells = (each.entity_type, str(each.id), f"{each.score:.3f}", str(each.attributes["title"]))
                    table.add_row(*(Text(cell) for cell in cells))  # a title's brackets are not markup
            console.print(table)


def _worth_table(worth: dict[IndexKind, Worth], rows: dict[str, int]) -> Table:
    table = Table(title="Against exact search over float32, k = 100, text in, through gRPC", title_justify="left")
    for heading in ("kind", "entities", "recall@10", "recall@100", "p50 ms", "p95 ms"):
        table.add_column(heading, justify="left" if heading in {"kind", "entities"} else "right")
    for name, kind in KINDS.items():
        each = worth[kind]
        figures = (f"{each.recall_at_10:.4f}", f"{each.recall_at_100:.4f}", f"{each.p50_ms:.2f}", f"{each.p95_ms:.2f}")
        table.add_row(str(kind), f"{rows[name]:,} {name}s, {SHARDS} shards", *figures)
    return table
