"""`retrieval check`: is a generation whole, and does it answer as it should? A verdict for every file and shard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from index_builders.check import Verdict, check_generation, file_verdicts
from retrieval.cli.progress import ProgressCallback, progress_printer
from retrieval.cli.stores import Cache, EntityType, Json, StoreWhere, open_mirror, open_store
from retrieval.errors import DamagedData
from retrieval.store import RemoteStore
from retrieval.store.manifest import MANIFEST_FILE


def check(
    store: StoreWhere,
    entity_type: EntityType,
    generation: Annotated[str | None, typer.Argument(help="Generation; the live one if left out.")] = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Check checksums, structure, ids, vectors and answers of a generation; exit code 1 if anything is off."""
    with progress_printer(f"check {entity_type}") as progress:
        house = open_store(store, progress)
        name = generation or house.current(entity_type)
        if isinstance(house, RemoteStore):
            verdicts = _check_remote(house, entity_type, name, cache, progress)
        else:
            verdicts = check_generation(house.generation_path(entity_type, name), progress=progress)
    for verdict in verdicts:
        print(f"{'ok  ' if verdict.good else 'BAD '} {verdict.name}{'' if verdict.good else ': ' + verdict.finding}")
    bad = {verdict.name: verdict.finding for verdict in verdicts if not verdict.good}
    print(f"generation {name} of {entity_type}: " + (f"{len(bad)} findings" if bad else "whole"))
    if as_json:
        print(json.dumps({"generation": name, "good": not bad, "findings": bad, "checked": len(verdicts)}))
    if bad:
        raise typer.Exit(1)


def _check_remote(
    house: RemoteStore, entity_type: str, generation: str, cache: Path | None, progress: ProgressCallback
) -> list[Verdict]:
    """The bytes at the URL first; only when all are good, a copy of them is opened."""
    try:
        manifest = house.manifest(entity_type, generation)
    except DamagedData as error:
        return [Verdict(name=MANIFEST_FILE, finding=str(error))]
    wrong = house.findings(entity_type, generation)
    if wrong:
        return file_verdicts(manifest, wrong)
    with tempfile.TemporaryDirectory(prefix="retrieval-check-") as folder:
        mirror = open_mirror(house.url, cache or Path(folder), progress)
        mirror.fetch(entity_type, generation)
        return check_generation(mirror.store.generation_path(entity_type, generation), progress=progress)
