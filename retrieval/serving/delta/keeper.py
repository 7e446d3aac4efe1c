"""Fresh entities of a running server: follows every type's log and lays what it says over the generation served.

One thread reads the logs; another generation, taken up by a swap, gets its own delta from the writes that it has not
folded. What calls see is replaced whole, so that an answer never meets half of a write. Knows no gRPC.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.delta import Header, LiveDelta, LogReader, Snapshot
from retrieval.delta.columns import fitting
from retrieval.serving.calls import DeltaState
from retrieval.serving.delta.settings import DeltaSettings
from retrieval.serving.delta.shard import DeltaShard
from retrieval.serving.engine import Engine
from retrieval.serving.rankings import Served
from retrieval.serving.shards import LocalShard
from retrieval.store import Manifest
from retrieval.types import NO_ROW, AnyArray, Bool, IdType, Metric, VectorDtype

_log = logging.getLogger(__name__)
_LEAST_S = 0.1  # between two new views: each costs some milliseconds, which searches wait for


def header_of(manifest: Manifest) -> Header:
    """What writes for this generation have in common."""
    return Header(space_id=manifest.space_id, d=manifest.d, id_type=IdType(manifest.id_type))


class _Follow:
    """The delta of one generation."""

    def __init__(self, home: Path, served: Served, settings: DeltaSettings) -> None:
        manifest = served.about.manifest
        self.generation, self.folded = manifest.id, manifest.delta_position
        schema = served.schema
        self._reader = LogReader(home, after=manifest.delta_position)
        self.live = LiveDelta(
            header_of(manifest),
            Metric(manifest.metric),
            VectorDtype(manifest.vector_dtype),
            lambda attributes: fitting(attributes, schema),
            position=manifest.delta_position,
            graph_rows=settings.graph_rows,
        )
        self._id_type = IdType(manifest.id_type)
        self._hidden: list[Bool] = [np.zeros(shard.rows, bool) for shard in served.shards]
        self._oldest = 0.0  # when the oldest write was made that the generation does not have; 0 for none known
        self.snapshot: Snapshot | None = None
        self.shown = manifest.delta_position  # last write that callers see; the snapshot may be a moment ahead
        self.trouble = ""

    def catch_up(self, served: Served) -> bool:
        """Apply what was acknowledged since; whether that was anything."""
        touched: list[str | int] = []
        try:
            for entry in self._reader.read():
                if entry.header.id_type is self._id_type:
                    touched.extend(entry.write.ids)
                self.live.apply(entry)
                self._oldest = self._oldest or entry.at
        except Exception:  # what was read before the damage counts, a delete among it too
            self._take(served, touched)
            raise
        return self._take(served, touched)

    def _take(self, served: Served, touched: list[str | int]) -> bool:
        if self.snapshot is not None and not touched:
            return False
        if touched:
            kind = np.int64 if self._id_type is IdType.INT64 else object
            ids: AnyArray = np.array(list(dict.fromkeys(touched)), kind)
            for shard, hidden in zip(served.shards, self._hidden, strict=True):
                assert isinstance(shard, LocalShard)
                rows = shard.find(ids)
                hidden[rows[rows != NO_ROW]] = True
        self.snapshot = self.live.snapshot()
        return True

    def over(self, served: Served) -> Served:
        """The generation with the delta on top."""
        assert self.snapshot is not None
        if not self.snapshot.touched:
            return served
        shards = []
        for shard, hidden in zip(served.shards, self._hidden, strict=True):
            assert isinstance(shard, LocalShard)
            shards.append(shard.hiding(hidden) if hidden.any() else shard)
        if self.snapshot.live:
            manifest = served.about.manifest
            shards.append(DeltaShard(self.snapshot, Metric(manifest.metric), shards[0].kind))  # type: ignore[arg-type]
        return replace(served, shards=tuple(shards), hidden=self.snapshot.touched)

    def state(self, entity_type: str) -> DeltaState:
        """For people and metrics."""
        found, gone = self.snapshot, self._reader.missing
        lost = f"{gone:,} writes before the log's first are gone: a later generation folded them in" if gone else ""
        return DeltaState(
            entity_type=entity_type,
            rows=0 if found is None else found.live,
            hidden=sum(int(np.count_nonzero(hidden)) for hidden in self._hidden),
            position=self.shown,
            folded=self.folded,
            trouble=self.trouble or lost,
            # by the wall clock, which outlives a restart and may be set back
            oldest_age_s=max(0.0, time.time() - self._oldest) if self._oldest else 0.0,
        )


class DeltaKeeper:
    """Keeps an engine's answers fresh. root: the local store."""

    def __init__(
        self,
        engine: Engine,
        root: Path,
        settings: DeltaSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._root, self._settings, self._clock = engine, root, settings, clock
        self._follows: dict[str, _Follow] = {}
        self._lock = threading.RLock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="delta", daemon=True)
        engine.shown.lay_over(self._over)

    def start(self) -> None:
        """Follow the logs in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def written(self) -> None:
        """A write was acknowledged here: it shall be searchable at once."""
        self._wake.set()

    def size(self, entity_type: str) -> int:
        """Entities of a type written since its generation was built, the deleted ones included."""
        follow = self._follows.get(entity_type)
        return 0 if follow is None else follow.live.size

    def states(self) -> tuple[DeltaState, ...]:
        """How each type's delta is."""
        return tuple(follow.state(name) for name, follow in sorted(self._follows.items()))

    def look(self) -> None:
        """Read every log once, and put what is new in front of callers."""
        for name in self._engine.shown.base:
            with self._lock:
                follow = self._follows.get(name)
                base = self._engine.shown.base.get(name)
                if follow is None or base is None or base.about.manifest.id != follow.generation:
                    continue
                before = follow.snapshot
                try:
                    follow.catch_up(base)
                    follow.trouble = ""
                except Exception as error:  # the other types are read on
                    trouble = str(error) or type(error).__name__
                    if follow.trouble != trouble:
                        _log.error("the delta of %s is not read on: %s", name, trouble)
                    follow.trouble = trouble
                found = follow.snapshot
            if found is not None and found is not before:
                self._engine.shown.refresh(name)
                follow.shown = found.position

    def _over(self, served: Served) -> Served:
        name = served.about.manifest.entity_type
        if not all(isinstance(shard, LocalShard) for shard in served.shards):
            return served
        with self._lock:
            follow = self._follows.get(name)
            if follow is None or follow.generation != served.about.manifest.id:
                follow = _Follow(self._root / name / "delta", served, self._settings)
                follow.catch_up(served)
                follow.shown = follow.live.position
                self._follows[name] = follow
            return follow.over(served)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._settings.poll_seconds)
            self._wake.clear()
            try:
                self.look()
            except Exception:  # what is served goes on being served
                _log.exception("following the delta failed")
            self._closing.wait(_LEAST_S)
