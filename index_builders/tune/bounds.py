"""What a caller wants of a build: recall at least, latency and bytes per row at most."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams


class Bounds(BaseModel):
    """Bounds of one build; None leaves that side open. Construct with `make_bounds`.

    max_latency_ms: 95th percentile of one query on one thread that searches all shards one after another, as the
    manifest's frontier states it; max_bytes_per_row: index files of a shard (vectors, links, codes, lists), which is
    what serving keeps in memory or page cache; ids and attributes come on top.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_recall: float = Field(0.95, gt=0, le=1, description="recall@100 to reach")
    max_latency_ms: float | None = Field(None, gt=0, description="95th percentile of one query, in milliseconds")
    max_bytes_per_row: float | None = Field(None, gt=0, description="bytes of a row's index files")


def make_bounds(**values: Any) -> Bounds:
    """Bounds from keywords, None counting as not given; InvalidParams names the first bad one and its limit."""
    try:
        return Bounds(**{name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidParams(f"{name} = {first['input']!r} is not acceptable: {first['msg'].lower()}") from None
