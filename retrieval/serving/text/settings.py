"""Settings of the way from a text to its vector: cache, batches, warm-up. Reads no file."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024
DAY_SECONDS = 86_400


class EncodeSettings(BaseModel):
    """How query texts become vectors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cache_bytes: int = Field(
        default=256 * MIB,
        ge=0,
        le=1_024 * 1_024 * MIB,
        description="memory for the vectors of queries seen before, about 150,000 of them at the default and 256 "
        "dimensions; 0 encodes every query anew",
    )
    cache_ttl_seconds: float = Field(
        default=30 * DAY_SECONDS,
        gt=0,
        le=366 * DAY_SECONDS,
        description="age at which a cached vector is no longer used; a vector never changes within its space, so this "
        "bounds only how long a query that nobody types any more is kept on disk",
    )
    cache_file: Path | None = Field(
        default=None,
        description="file that keeps the cache over a restart, so that a new process does not begin cold; "
        "with workers each writes one of its own beside it, FILE.worker-0 and so on, and reads all of them",
    )
    cache_save_seconds: float = Field(
        default=600.0,
        ge=1,
        le=DAY_SECONDS,
        description="time between two writings of the cache file; what a crash loses, against the work of writing",
    )
    warm_queries: Path | None = Field(
        default=None,
        description="text file of top queries, one a line, the most frequent first; they are encoded after the start "
        "whenever no caller waits",
    )
    max_batch: int = Field(
        default=64,
        ge=1,
        le=4_096,
        description="texts that go through the tower together; more make better use of it under load, fewer let a "
        "query that arrives meanwhile wait less",
    )
    max_wait_ms: float = Field(
        default=5.0,
        ge=0,
        le=1_000,
        description="time after a batch in which the callers just answered may come again, so that the next batch is "
        "full; a lone query never waits; 0 when callers are many and independent of each other",
    )
    max_queue: int = Field(
        default=2_048,
        ge=1,
        le=1_000_000,
        description="texts that may wait for the tower, a whole batch at least; beyond it a call is refused at once "
        "instead of after its deadline",
    )
