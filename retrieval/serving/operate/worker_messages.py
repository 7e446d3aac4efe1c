"""What a worker and its parent say to each other through their pipe."""

from __future__ import annotations

from retrieval.types import StrEnum


class State(StrEnum):
    """Where a worker is in its life; LOADED, SERVING and FAILED are also what it sends."""

    LOADING = "loading"
    LOADED = "loaded"
    STARTING = "starting"
    SERVING = "serving"
    FAILED = "failed"
    GONE = "gone"


class Ask(StrEnum):
    """What the parent sends."""

    GO = "go"  # listen, because all are loaded
    METRICS = "metrics"
