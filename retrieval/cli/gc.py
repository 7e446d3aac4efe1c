"""`retrieval gc`: remove the generations that nobody keeps and what jobs that died left behind."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer

from retrieval.cli.phrases import counted
from retrieval.cli.stores import Json, StoreWhere, open_store
from retrieval.store.gc import STALE_S, Kind, Rubbish, collect_garbage

_NOUNS: dict[Kind, str] = {
    "generation": "generation",
    "staging": "half-done build",
    "fetching": "half-done download",
    "temporary": "temporary file",
    "upload": "unfinished upload",
}


def gc(
    store: StoreWhere,
    entity_type: Annotated[str | None, typer.Argument(help="The entity type; all if left out.")] = None,
    keep: Annotated[int, typer.Option(help="Newest generations that stay beside the live one, to roll back to.")] = 3,
    keep_parent: Annotated[
        bool, typer.Option(help="Keep what the live one was made from: the next rebuild starts from it.")
    ] = True,
    stale_hours: Annotated[
        float, typer.Option(help="For how long a half-done build stays, so that the next run can resume it.")
    ] = STALE_S / 3600,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old generations, stale stagings and temporary files; the live generation is never touched."""
    house = open_store(store)
    removed: dict[str, list[Rubbish]] = {}
    for name in [entity_type] if entity_type is not None else house.entity_types():
        removed[name] = collect_garbage(
            house, name, keep=keep, keep_parent=keep_parent, stale_s=stale_hours * 3600, dry_run=dry_run
        )
        for each in removed[name]:
            verb = "would remove" if dry_run else "removed"
            print(f"{name}: {verb} {each.kind} {each.name}, {each.size_bytes / 2**20:.1f} MiB")
    rubbish = [each for found in removed.values() for each in found]
    freed = sum(each.size_bytes for each in rubbish)
    kinds: Counter[str] = Counter()
    for each in rubbish:
        kinds[_NOUNS[each.kind]] += each.count
    named = ", ".join(counted(count, noun) for noun, count in kinds.items()) or "nothing"
    size = f", {freed / 2**20:.1f} MiB" if rubbish else ""
    print(f"{'to remove' if dry_run else 'removed'}: {named}{size}")
    if as_json:
        things = {
            name: [{"kind": each.kind, "name": each.name, "size_bytes": each.size_bytes} for each in found]
            for name, found in removed.items()
        }
        print(json.dumps({"dry_run": dry_run, "removed": things, "size_bytes": freed}))
