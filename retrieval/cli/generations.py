"""`retrieval generations`, `publish`, `rollback`: what a store holds, what is live, and which one is to be."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retrieval.cli.progress import progress_printer
from retrieval.cli.stores import Cache, EntityType, Json, StoreWhere, open_mirror, open_store
from retrieval.errors import DamagedData, NoGeneration, RetrievalError, StoreError
from retrieval.store import RemoteStore, Store


def generations(
    store: StoreWhere,
    entity_type: Annotated[str | None, typer.Argument(help="The entity type; all if left out.")] = None,
    as_json: Json = False,
) -> None:
    """List the generations of a store, oldest first; * marks the live one."""
    house = open_store(store)
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


def publish(
    store: StoreWhere, entity_type: EntityType, generation: str, cache: Cache = None, as_json: Json = False
) -> None:
    """Make a generation the live one, after checking every byte of it; from --cache it is sent to a URL first."""
    with progress_printer(f"publish {entity_type}") as progress:
        house = open_store(store, progress)
        if isinstance(house, Store):
            house.open(entity_type, generation)
            house.publish(entity_type, generation)
        elif cache is not None and generation not in house.generations(entity_type):
            mirror = open_mirror(store, cache, progress)
            with mirror.lease(entity_type, owner="publish") as lease:
                mirror.push(entity_type, generation)
                mirror.move_pointer(entity_type, generation, lease=lease)
        else:
            wrong = house.findings(entity_type, generation)
            if wrong:
                found = "; ".join(f"{name} {finding}" for name, finding in wrong.items())
                raise DamagedData(f"generation {generation} in {store} is damaged: {found}; publish another")
            house.move_pointer(entity_type, generation)
    _say_live(entity_type, generation, as_json)


def rollback(store: StoreWhere, entity_type: EntityType, as_json: Json = False) -> None:
    """Make the newest good generation before the live one live again; every byte of it is checked first."""
    passed_over: list[str] = []
    with progress_printer(f"rollback {entity_type}") as progress:
        generation = open_store(store, progress).rollback(entity_type, passed_over=passed_over.append)
    for sentence in passed_over:
        print(f"passed over: {sentence}")
    _say_live(entity_type, generation, as_json, passed_over=passed_over)


def _describe_all(house: Store | RemoteStore, entity_type: str) -> list[dict[str, Any]]:
    try:
        live = house.current(entity_type)
    except NoGeneration:
        live = ""
    except StoreError as error:
        # which one is live cannot be known, but their names are what mends it
        print(f"{error}: retrieval publish {_where(house)} {entity_type} GENERATION", file=sys.stderr)
        live = ""
    return [_describe(house, entity_type, name, name == live) for name in house.generations(entity_type)]


def _describe(house: Store | RemoteStore, entity_type: str, generation: str, live: bool) -> dict[str, Any]:
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


def _where(house: Store | RemoteStore) -> str:
    return house.url if isinstance(house, RemoteStore) else str(house.root)


def _say_live(entity_type: str, generation: str, as_json: bool, **told: list[str]) -> None:
    print(f"generation {generation} of {entity_type} is live")
    if as_json:
        print(json.dumps({"entity_type": entity_type, "live": generation, **told}))
