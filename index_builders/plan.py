"""Stage 1, plan: what exactly will be built, from which bytes, by which versions, and a digest of all that.

Two builds with the same digest are the same build: a killed one is resumed by the next, and one whose generation is
already live has nothing to do. Paths and the number of workers are left out, since they change nothing in the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from index_builders import ivfpq
from index_builders.gate import canaries
from index_builders.settings import BuildSettings
from index_builders.source import Source, open_source
from index_builders.staging import hash_file
from retrieval import __version__
from retrieval.errors import InvalidArgument, InvalidData, SpaceMismatch
from retrieval.params import BUILD_PARAMS, FlatBuild, HnswBuild, IvfpqBuild, make_params
from retrieval.spaces import check_space_id
from retrieval.store.local import check_entity_type
from retrieval.store.placement import PLACEMENT
from retrieval.types import IdType, IndexKind, Metric

Progress: TypeAlias = Callable[[str, int, int], None]

# `auto`: below the first bound an exact scan is as quick as any index; above the second a graph's links and build time
# weigh more than the recall they buy over inverted lists
AUTO_FLAT_BELOW = 10_000
AUTO_HNSW_BELOW = 2_000_000
_LIBRARIES = ("numpy", "pyarrow", "hnswlib", "faiss-cpu", "faiss-gpu")


class Plan(BaseModel):
    """One build, resolved: no setting left open, no default left unsaid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entity_type: str
    space_id: str
    metric: Metric
    d: int
    id_type: IdType
    id_column: str
    embedding_column: str
    rows_in: int
    source_sha256: list[str]
    shards: int
    placement: str
    kind: IndexKind
    params: dict[str, Any]
    seed: int
    row_order: Literal["source", "id"]
    fast: bool
    delta_position: int  # writes of the delta that the source holds already
    inherited: str | None  # SHA-256 of the trained quantizer that is offered by the generation before
    max_quarantined: float
    target_recall: float
    min_recall: float
    verify_queries: int
    queries_sha256: str | None
    canary_texts: tuple[str, str] | None  # SHA-256 of the file, space of the checkpoint that encodes them
    library_versions: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over every field, hex."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def build_params(self) -> FlatBuild | IvfpqBuild | HnswBuild:
        """The parameters as their type."""
        return make_params(BUILD_PARAMS[self.kind], self.params)


def make_plan(
    settings: BuildSettings,
    *,
    delta_position: int = 0,
    inherited: str | None = None,
    source_sha256: list[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Plan, Source]:
    """Open the source, hash it and resolve every setting; InvalidData, InvalidParams or SpaceMismatch otherwise.

    delta_position, inherited, source_sha256: see the fields of `Plan`; inherited counts for kinds that train only, and
    the files of the source are hashed where nobody has done so.
    """
    check_entity_type(settings.entity_type)
    source = open_source(
        settings.source, settings.ids, id_column=settings.id_column, embedding_column=settings.embedding_column
    )
    if source.rows < settings.shards:
        raise InvalidData(f"{source.rows} rows cannot fill {settings.shards} shards: use far fewer --shards")
    kind = choose_kind(source.rows // settings.shards) if settings.kind == "auto" else settings.kind
    params = make_params(BUILD_PARAMS[kind], settings.params)
    if isinstance(params, IvfpqBuild):
        params = ivfpq.resolve(params, rows=source.rows, shards=settings.shards, d=source.d)
    space_id = _space_id(settings, source)
    plan = Plan(
        entity_type=settings.entity_type,
        space_id=space_id,
        metric=settings.metric,
        d=source.d,
        id_type=source.id_type,
        id_column=settings.id_column,
        embedding_column=settings.embedding_column,
        rows_in=source.rows,
        source_sha256=_hash(source.files, progress) if source_sha256 is None else source_sha256,
        shards=settings.shards,
        placement=PLACEMENT,
        kind=kind,
        params=params.model_dump(mode="json"),
        seed=settings.seed,
        row_order=settings.row_order,
        fast=settings.fast,
        delta_position=delta_position,
        inherited=inherited if kind is IndexKind.IVFPQ else None,
        max_quarantined=settings.max_quarantined,
        target_recall=settings.target_recall,
        min_recall=settings.min_recall,
        verify_queries=settings.verify_queries,
        queries_sha256=_hash([settings.queries], None)[0] if settings.queries else None,
        canary_texts=_canary_texts(settings, space_id, source.d),
        library_versions=library_versions(),
    )
    return plan, source


def choose_kind(rows_per_shard: int) -> IndexKind:
    """What `--kind auto` means: flat below 10,000 rows per shard, hnsw below 2,000,000, ivfpq from there on."""
    if rows_per_shard < AUTO_FLAT_BELOW:
        return IndexKind.FLAT
    return IndexKind.HNSW if rows_per_shard < AUTO_HNSW_BELOW else IndexKind.IVFPQ


def library_versions() -> dict[str, str]:
    """Versions of what shapes an index's bytes, without importing any of it."""
    found = {"retrieval": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _space_id(settings: BuildSettings, source: Source) -> str:
    if settings.space_id is not None and source.space_id not in {None, settings.space_id}:
        raise SpaceMismatch(
            f"{settings.source} holds embeddings of space {source.space_id}, not of {settings.space_id}: leave "
            "--space-id out, or embed again"
        )
    chosen = settings.space_id or source.space_id
    if chosen is None:
        raise InvalidArgument(
            f"{settings.source} does not say of which space its embeddings are: name it with --space-id"
        )
    return check_space_id(chosen)


def _canary_texts(settings: BuildSettings, space_id: str, d: int) -> tuple[str, str] | None:
    if settings.canary_texts is None:
        return None
    encoder = canaries.check(settings.canary_texts, settings.checkpoint, space_id, d)
    return _hash([settings.canary_texts], None)[0], encoder


def _hash(files: list[Path], progress: Progress | None) -> list[str]:
    found: list[str] = []
    try:
        with ThreadPoolExecutor(4) as pool:
            for done in pool.map(hash_file, files):
                found.append(done)
                if progress is not None:
                    progress("plan", len(found), len(files))
    except OSError as error:
        raise InvalidData(f"cannot read {error.filename}: {error.strerror}") from error
    return found
