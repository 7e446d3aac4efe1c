"""The delta of a server, from its settings: who keeps it, and who writes it or says why nobody does."""

from __future__ import annotations

from pathlib import Path

from retrieval.serving.config import ServingSettings
from retrieval.serving.delta.keeper import DeltaKeeper
from retrieval.serving.delta.metrics import deltas
from retrieval.serving.delta.writer import DeltaWriter
from retrieval.serving.engine import Engine
from retrieval.serving.operate.metrics import Metrics
from retrieval.store.place import is_url


def open_delta(engine: Engine, settings: ServingSettings, metrics: Metrics) -> tuple[DeltaKeeper | None, DeltaWriter]:
    """The keeper, not yet started, and the writer; no keeper where there are no writes."""
    why = ""
    if settings.role != "all":
        why = "it is one of a fleet; write to a server that serves the whole store"
    elif not settings.delta.enabled:
        why = "delta.enabled is off"
    elif is_url(settings.store):
        why = f"its store is at {settings.store}; the log of writes needs a local one"
    if why:
        return None, DeltaWriter(engine, None, settings.delta, None, why)
    root = Path(settings.store)
    keeper = DeltaKeeper(engine, root, settings.delta)
    engine.delta = keeper.states
    metrics.add(deltas(keeper.states))
    return keeper, DeltaWriter(engine, root, settings.delta, keeper)
