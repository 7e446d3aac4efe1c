"""Writes of callers: checked against the generation that is served, durable in the log, then acknowledged.

Knows no gRPC and nothing about searching.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.delta import Deletes, DeltaLog, Upserts
from retrieval.delta.columns import to_table
from retrieval.errors import FailedPrecondition, InvalidQuery, Overloaded, SpaceMismatch
from retrieval.serving.calls import EntityId
from retrieval.serving.delta.keeper import DeltaKeeper, header_of
from retrieval.serving.delta.settings import DeltaSettings
from retrieval.serving.engine import Engine
from retrieval.serving.rankings import Served
from retrieval.store import Manifest
from retrieval.topk import check_vectors
from retrieval.types import F32, FLOAT16_MAX, IdType, Metric, VectorDtype

_FULL_RETRY_MS = 60_000  # a rebuild makes room, which takes minutes at least


class DeltaWriter:
    """Upserts and deletes of one server. keeper: None refuses everything, because `why`."""

    def __init__(
        self, engine: Engine, root: Path | None, settings: DeltaSettings, keeper: DeltaKeeper | None, why: str = ""
    ) -> None:
        self._engine, self._root, self._settings, self._keeper, self._why = engine, root, settings, keeper, why
        self._lock = threading.Lock()
        self._logs: dict[str, DeltaLog] = {}

    def upsert(
        self,
        entity_type: str,
        space_id: str,
        ids: Sequence[EntityId],
        vectors: F32,
        attributes: Sequence[dict[str, Any]],
    ) -> int:
        """Put entities in place: ids [n], vectors float32 [n, d]. The number of the last write, durable.

        Raises InvalidQuery, SpaceMismatch, FailedPrecondition (no delta here), Overloaded (the delta is full) and
        StoreError (the disk refuses).
        """
        served, keeper = self._ready(entity_type)
        manifest = served.about.manifest
        if space_id != manifest.space_id:
            raise SpaceMismatch(
                f"the vectors are of space {space_id!r}, generation {manifest.id} of {manifest.space_id}: embed them "
                "with its tower"
            )
        self._check_ids(ids, served)
        if vectors.shape != (len(ids), manifest.d):
            raise InvalidQuery(
                f"the vectors have shape {list(vectors.shape)} for {len(ids)} ids, space {space_id} has {manifest.d} "
                "dimensions"
            )
        bad = np.flatnonzero(~check_vectors(vectors))
        if bad.size:
            raise InvalidQuery(
                f"the vector of {ids[int(bad[0])]!r} is not finite or has zero norm: send finite numbers, not all zero"
            )
        self._check_range(ids, vectors, manifest)
        to_table(attributes, served.schema)
        self._check_size(entity_type, len(ids), keeper)
        write = Upserts(ids=list(ids), vectors=vectors, attributes=list(attributes))
        return self._append(entity_type, manifest, write, keeper)

    def delete(self, entity_type: str, ids: Sequence[EntityId]) -> int:
        """Take entities away, whether they are there or not. The number of the last write, durable."""
        served, keeper = self._ready(entity_type)
        self._check_ids(ids, served)
        self._check_size(entity_type, len(ids), keeper)
        write = Deletes(ids=list(ids))
        return self._append(entity_type, served.about.manifest, write, keeper)

    def _append(self, entity_type: str, manifest: Manifest, write: Upserts | Deletes, keeper: DeltaKeeper) -> int:
        assert self._root is not None
        header, folded = header_of(manifest), manifest.delta_position
        with self._lock:
            log = self._logs.get(entity_type)
            if log is None or (log.header, log.after) != (header, folded):
                home = self._root / entity_type / "delta"
                log = DeltaLog(home, header, fsync=self._settings.fsync, after=folded)
                self._logs[entity_type] = log
        position = log.append(write)
        keeper.written()
        return position

    def _ready(self, entity_type: str) -> tuple[Served, DeltaKeeper]:
        if self._keeper is None:
            raise FailedPrecondition(f"this server takes no upserts and deletes: {self._why}")
        served = self._engine.shown.base.get(entity_type)
        if served is None:
            raise InvalidQuery(
                f"entity type {entity_type!r} is not served; these are: {', '.join(self._engine.shown.base)}"
            )
        return served, self._keeper

    def _check_size(self, entity_type: str, more: int, keeper: DeltaKeeper) -> None:
        size, most = keeper.size(entity_type), self._settings.max_entities
        if size + more > most:
            raise Overloaded(
                f"{size:,} entities of {entity_type!r} were written since the last rebuild, {more:,} more would exceed "
                f"the limit of {most:,}: rebuild, which folds them in",
                retry_after_ms=_FULL_RETRY_MS,
            )

    def _check_range(self, ids: Sequence[EntityId], vectors: F32, manifest: Manifest) -> None:
        """What a shard would turn into infinities; with cosine vectors are brought to unit length first."""
        if manifest.vector_dtype != VectorDtype.FLOAT16 or manifest.metric == Metric.COSINE:
            return
        largest = np.abs(vectors).max(axis=1)
        bad = np.flatnonzero(largest > FLOAT16_MAX)
        if bad.size:
            first = int(bad[0])
            raise InvalidQuery(
                f"the vector of {ids[first]!r} has a component of {largest[first]:g}, the generation's vectors are "
                f'float16 and hold at most {FLOAT16_MAX:,.0f}: scale the vectors, or rebuild with vectors = "float32"'
            )

    def _check_ids(self, ids: Sequence[EntityId], served: Served) -> None:
        most = self._engine.limits.max_batch
        if not 1 <= len(ids) <= most:
            raise InvalidQuery(f"{len(ids):,} entities in one call, the limits are 1 and {most:,}: send several calls")
        wanted = str if served.about.manifest.id_type == IdType.STRING else int
        for id_ in ids:
            if type(id_) is not wanted or id_ == "":
                raise InvalidQuery(
                    f"id {id_!r} is not acceptable: {served.about.manifest.entity_type} has {wanted.__name__} ids, "
                    "none of them empty"
                )
