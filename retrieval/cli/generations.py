"""`retrieval generations`, `publish`, `rollback`, `check`: what a store holds, what is live, whether it is whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from index_builders.check import check_generation
from retrieval.errors import NoGeneration, RetrievalError, StoreError
from retrieval.store import Store

_StorePath = Annotated[Path, typer.Argument(help="The store.")]
_EntityType = Annotated[str, typer.Argument(help="The entity type.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")]


def generations(
    store: _StorePath,
    entity_type: Annotated[str | None, typer.Argument(help="The entity type; all if left out.")] = None,
    as_json: _Json = False,
) -> None:
    """List the generations of a store, oldest first; * marks the live one."""
    house = Store(store)
    if entity_type is not None and entity_type not in house.entity_types():
        known = ", ".join(house.entity_types()) or "none"
        raise NoGeneration(f"{store} has no entity type {entity_type!r}; there are: {known}")
    rows = [
        row for name in ([entity_type] if entity_type else house.entity_types()) for row in _describe_all(house, name)
    ]
    table = Table()
    for column in ("entity type", "generation", "rows", "kind", "recall@100", "MiB", "created"):
        # left to wrap, an id could not be copied
        table.add_column(
            column,
            justify="right" if column in {"rows", "recall@100", "MiB"} else "left",
            no_wrap=column == "generation",
        )
    for row in rows:
        mark = "* " if row["live"] else "  "
        if "problem" in row:
            table.add_row(row["entity_type"], mark + row["generation"], "", "", "", "", escape(row["problem"]))
            continue
        recall = "not measured" if row["recall_at_100"] is None else f"{row['recall_at_100']:.4f}"
        size = f"{row['size_bytes'] / 2**20:.1f}"
        kind = f"{row['kind']} x {row['shards']}"
        table.add_row(
            row["entity_type"], mark + row["generation"], str(row["rows"]), kind, recall, size, row["created_at"]
        )
    # whoever reads a pipe wants whole figures, not lines cut for a terminal that is not there
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if as_json:
        print(json.dumps({"generations": rows}))


def publish(store: _StorePath, entity_type: _EntityType, generation: str, as_json: _Json = False) -> None:
    """Make a generation the live one, after checking every byte of it."""
    house = Store(store)
    house.open(entity_type, generation)
    house.publish(entity_type, generation)
    _say_live(entity_type, generation, as_json)


def rollback(store: _StorePath, entity_type: _EntityType, as_json: _Json = False) -> None:
    """Make the generation before the live one live again."""
    _say_live(entity_type, Store(store).rollback(entity_type), as_json)


def check(
    store: _StorePath,
    entity_type: _EntityType,
    generation: Annotated[str | None, typer.Argument(help="Generation; the live one if left out.")] = None,
    as_json: _Json = False,
) -> None:
    """Check every checksum and the structure of a generation; exit code 1 if anything is off."""
    house = Store(store)
    name = generation or house.current(entity_type)
    verdicts = check_generation(house.generation_path(entity_type, name))
    for verdict in verdicts:
        print(f"{'ok  ' if verdict.good else 'BAD '} {verdict.name}{'' if verdict.good else ': ' + verdict.finding}")
    bad = {verdict.name: verdict.finding for verdict in verdicts if not verdict.good}
    print(f"generation {name} of {entity_type}: " + (f"{len(bad)} findings" if bad else "whole"))
    if as_json:
        print(json.dumps({"generation": name, "good": not bad, "findings": bad, "checked": len(verdicts)}))
    if bad:
        raise typer.Exit(1)


def _describe_all(house: Store, entity_type: str) -> list[dict[str, Any]]:
    try:
        live = house.current(entity_type)
    except NoGeneration:
        live = ""
    except StoreError as error:
        # which one is live cannot be known, but their names are what mends it
        print(f"{error}: retrieval publish {house.root} {entity_type} GENERATION", file=sys.stderr)
        live = ""
    return [_describe(house, entity_type, name, name == live) for name in house.generations(entity_type)]


def _describe(house: Store, entity_type: str, generation: str, live: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"entity_type": entity_type, "generation": generation, "live": live}
    try:
        manifest = house.manifest(entity_type, generation)
    except RetrievalError as error:
        return {**row, "problem": str(error)}  # one damaged generation must not hide the others
    kind = manifest.shards[0].kind
    point = next((p for p in manifest.frontier if p.params == manifest.default_search[kind]), None)
    return {
        **row,
        "rows": manifest.rows,
        "kind": str(kind),
        "shards": len(manifest.shards),
        "space_id": manifest.space_id,
        "metric": str(manifest.metric),
        # null where the build did not measure the default effort
        "recall_at_10": point and point.recall_at_10,
        "recall_at_100": point and point.recall_at_100,
        "p50_ms": point and point.p50_ms,
        "scan_crossover": {str(kind): found.model_dump() for kind, found in manifest.scan_crossover.items()},
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "created_at": manifest.created_at,
    }


def _say_live(entity_type: str, generation: str, as_json: bool) -> None:
    print(f"generation {generation} of {entity_type} is live")
    if as_json:
        print(json.dumps({"entity_type": entity_type, "live": generation}))
