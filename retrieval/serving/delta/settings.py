"""Settings of fresh entities: whether they are taken, how durable they are, and how many there may be."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DeltaSettings(BaseModel):
    """How a server takes upserts and deletes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(
        default=True, description="take upserts and deletes, and search what is in the log; off ignores the log"
    )
    fsync: Literal["each", "batch", "none"] = Field(
        default="batch",
        description="when a write is on disk before its caller is told: batch syncs once for all calls that wait, each "
        "once for every call, none not at all, so that a crash of the machine loses writes",
    )
    max_entities: int = Field(
        default=200_000,
        ge=1,
        le=10_000_000,
        description="entities of one type, deleted ones included, that may wait for the next rebuild; more are "
        "refused, since all of them are in the memory of every worker and are read again at every start",
    )
    graph_rows: int = Field(
        default=20_000,
        ge=1_000,
        le=10_000_000,
        description="fresh entities that are scanned exactly; above, a graph is built over them in the background",
    )
    poll_seconds: float = Field(
        default=0.2,
        ge=0.01,
        le=60,
        description="time between two looks at the log; a write by another worker is searchable that much later",
    )
