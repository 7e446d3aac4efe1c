"""From a store to what the engine serves: verified, probed in a child process, opened here, warmed up.

For each entity type the generation that CURRENT names comes first. One that is damaged is refused by name and the
newest older good one takes its place; never a newer one, because nobody published it. Knows no gRPC.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

from retrieval.errors import DamagedData, NoGeneration, SpaceMismatch, StoreError
from retrieval.serving.calls import GenerationDescription
from retrieval.serving.config import ServingSettings
from retrieval.serving.effort.efforts import Efforts
from retrieval.serving.fleet.part import check_types, read_part, shard_names
from retrieval.serving.rankings import Served
from retrieval.serving.shards import LocalShard, open_shards
from retrieval.serving.swap.origin import Origin
from retrieval.serving.swap.probe import probe, search_once
from retrieval.serving.swap.ready import ReadyProber
from retrieval.serving.text.encode import TextTower
from retrieval.store import Generation, Store
from retrieval.store.manifest import Manifest

_log = logging.getLogger(__name__)


def load_store(settings: ServingSettings) -> dict[str, Served]:
    """Open the live generation of every entity type that has one published.

    Of a leaf only the shards that `settings.shards` names are read.

    Raises InvalidParams (shards that are not there, a URL without a local folder), StoreError (not a store),
    NoGeneration (nothing published), DamagedData (a type without one good generation) and MissingDependency (an index
    library is not installed).
    """
    origin = Origin(settings)
    store = origin.store
    chosen = read_part(settings.shards if settings.role == "shard" else None)
    served: dict[str, Served] = {}
    broken: list[str] = []
    there = origin.entity_types()
    check_types(chosen, there)
    for entity_type in there:
        if chosen is not None and entity_type not in chosen:
            continue
        try:
            live = origin.live(entity_type)
        except NoGeneration:
            _log.warning("nothing is published for %s, so it is not served", entity_type)
            continue
        except StoreError as error:
            # which generation was live cannot be known; to guess could undo a rollback
            _log.error("%s is not served: %s", entity_type, error)
            broken.append(str(error))
            continue
        served[entity_type] = load_type(store, entity_type, live, settings)
    if not served and broken:
        raise StoreError(" | ".join(broken))
    if not served:
        raise NoGeneration(f"nothing is published in {settings.store}: build a generation into it first")
    return served


def load_type(store: Store, entity_type: str, live: str, settings: ServingSettings) -> Served:
    """Open generation `live` of one entity type, or the newest older good one; DamagedData when none is good.

    An older one takes its place only if it is of the same space and metric, as far as the live one's manifest tells.
    """
    refused: list[str] = []
    older = [name for name in reversed(store.generations(entity_type)) if name < live]
    wanted = _comparable(store, entity_type, live)
    for name in [live, *older]:
        try:
            good = open_generation(store, entity_type, name, settings)
            found = (good.about.manifest.space_id, good.about.manifest.metric)
            if wanted is not None and found != wanted:
                raise DamagedData(
                    f"it is of space {found[0]} and metric {found[1]}, the live one of {' and '.join(wanted)}"
                )
        except (DamagedData, StoreError, NoGeneration) as error:
            _log.error("refused %s generation %s: %s", entity_type, name, error)
            refused.append(f"{name}: {error}")
            continue
        if refused:
            _log.warning("serving %s generation %s instead of %s", entity_type, name, live)
        return replace(good, about=replace(good.about, refused=tuple(refused)))
    raise DamagedData(f"no good generation of {entity_type} in {store.root}: {' | '.join(refused)}")


def check_tower(tower: TextTower, served: dict[str, Served]) -> None:
    """SpaceMismatch when the tower's vectors may search none of the generations; a warning for each they may not."""
    spaces = {name: each.about.manifest.space_id for name, each in served.items()}
    foreign = {name: space for name, space in spaces.items() if space not in {tower.space_id, *tower.compatible}}
    if len(foreign) == len(spaces):
        named = ", ".join(f"{name} of space {space}" for name, space in foreign.items())
        raise SpaceMismatch(
            f"the checkpoint's space {tower.space_id} fits nothing that is published ({named}): serve the checkpoint "
            "the store was embedded with, or embed and build again"
        )
    for name, space in foreign.items():
        _log.warning("text queries cannot search %s: its space is %s, the checkpoint's %s", name, space, tower.space_id)


def _comparable(store: Store, entity_type: str, live: str) -> tuple[str, str] | None:
    try:
        manifest = store.manifest(entity_type, live)
    except (DamagedData, StoreError, NoGeneration):
        return None
    return manifest.space_id, manifest.metric


def open_generation(store: Store, entity_type: str, name: str, settings: ServingSettings) -> Served:
    """Verify, probe in a child process, open here and warm up, as fast as it goes; see `Store.open` and `probe`."""
    # the order is the point: no library opens a file before its checksum is known, and none opens it here before a
    # child process has survived it
    only = _part_of(settings, lambda: store.manifest(entity_type, name))
    generation = store.open(entity_type, name, threads=settings.checksum_threads, only=only)
    _check_place(generation, entity_type)
    probe(generation, seconds=settings.probe_seconds)
    shards = _open_here(generation, settings)
    search_once(generation, shards)  # the warm-up: the first caller shall not pay for the first touch of the pages
    return _served(generation, shards)


def open_gently(
    store: Store,
    entity_type: str,
    manifest: Manifest,
    settings: ServingSettings,
    prober: ReadyProber,
    wait: Callable[[], None],
) -> Served:
    """As `open_generation` beside calls at work: `prober` verifies too, in time that nobody else wants.

    What was opened has not been searched here: the caller replays the canaries, at a pace of its own.
    wait: called before each shard is opened, returns when that disturbs nobody.
    """
    only = _part_of(settings, lambda: manifest)
    generation = Generation(path=store.generation_path(entity_type, manifest.id), manifest=manifest, only=only)
    _check_place(generation, entity_type)
    probe(generation, seconds=settings.probe_seconds, gently=prober)
    shards = []
    count = len(generation.shards)
    for files in generation.shards:
        wait()
        shards += _open_here(replace(generation, only=frozenset({files.manifest.name})), settings, of=count)
    return _served(generation, shards)


def _part_of(settings: ServingSettings, manifest: Callable[[], Manifest]) -> frozenset[str] | None:
    chosen = read_part(settings.shards if settings.role == "shard" else None)
    if chosen is None:
        return None
    found = manifest()
    return shard_names(found, chosen[found.entity_type])


def _check_place(generation: Generation, entity_type: str) -> None:
    found = generation.manifest
    if found.entity_type != entity_type:
        raise DamagedData(f"generation {found.id} is of {found.entity_type}, but lies under {entity_type}")


def _open_here(generation: Generation, settings: ServingSettings, *, of: int = 1) -> list[LocalShard]:
    """of: parts that the generation is opened in, which share the memory for filters."""
    return open_shards(
        generation,
        filter_cache_bytes=(settings.filter_cache_mib << 20) // of,
        searches_at_once=settings.searches_at_once or max(1, (os.cpu_count() or 1) // settings.workers),
    )


def _served(generation: Generation, shards: list[LocalShard]) -> Served:
    columns = dict.fromkeys(column for shard in shards for column in shard.columns)
    about = GenerationDescription(manifest=generation.manifest, columns=tuple(columns))
    return Served(about=about, shards=tuple(shards), efforts=Efforts(about.manifest))
