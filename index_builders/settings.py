"""What a caller may say about a build, checked once, with the default of every setting.

Settings are what a person asks for; the plan (`index_builders.plan`) is what will be done. Knows nothing about files
beyond their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams
from retrieval.types import IndexKind, Metric

MAX_SHARDS = 256  # each has two open files while the source is read


class BuildSettings(BaseModel):
    """One build. Construct with `make_settings`, which turns a bad value into one sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Path = Field(description="Parquet or Arrow IPC file, a folder of them, or a float32 .npy with `ids`")
    ids: Path | None = Field(None, description="ids of a .npy source: int64 .npy, text file (one a line) or Parquet")
    store: Path = Field(description="store to build into; made when it does not exist")
    entity_type: str = Field(description="entity type, for example pin or product")
    space_id: str | None = Field(None, description="space of the embeddings; None reads it from the source's metadata")
    metric: Metric = Field(Metric.COSINE, description="cosine, ip or l2")
    shards: int = Field(1, ge=1, le=MAX_SHARDS, description="parts that are built and searched side by side")
    kind: IndexKind | Literal["auto"] = Field("auto", description="index kind; auto chooses by rows per shard")
    params: dict[str, Any] = Field(default_factory=dict, description="build parameters of the kind")
    row_order: Literal["source", "id"] = Field(
        "source", description="rows of a shard as the source has them, or by id, which no other row's change moves"
    )
    fast: bool = Field(False, description="several threads per shard: quicker, and other bytes each time")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of sampling, training and graph levels")
    workers: int | None = Field(None, ge=0, le=256, description="shard processes; None one per core, 0 in this process")
    keep: int = Field(3, ge=1, le=1_000, description="published generations that stay")
    publish: bool = Field(True, description="make the new generation the live one")
    max_quarantined: float = Field(0.01, ge=0, le=1, description="share of refused rows above which the build fails")
    target_recall: float = Field(0.95, ge=0, le=1, description="recall@100 that the default effort has to reach")
    min_recall: float = Field(0.80, ge=0, le=1, description="recall@100 below which the build fails")
    queries: Path | None = Field(None, description="real queries (.npy or Parquet) to measure recall with")
    canary_texts: Path | None = Field(
        None,
        description="texts (one a line, or a text or query column) whose vectors and answers are kept as canaries",
    )
    checkpoint: Path | None = Field(
        None, description="checkpoint folder that encodes the canary texts, as servers will"
    )
    verify_queries: int = Field(200, ge=1, le=100_000, description="queries that recall is measured with")
    promised: dict[str, Any] | None = Field(None, description="what tuning expects, to be held against the build")
    id_column: str = Field("id", description="column of the ids")
    embedding_column: str = Field("embedding", description="column of the embeddings")


def make_settings(**values: Any) -> BuildSettings:
    """BuildSettings from keywords; InvalidParams names the first bad setting, its value and its limits."""
    try:
        return BuildSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        if name == "kind":
            known = ", ".join([*IndexKind, "auto"])
            raise InvalidParams(f"kind = {first['input']!r} is not acceptable: it is one of {known}") from None
        raise InvalidParams(f"{name} = {first['input']!r} is not acceptable: {first['msg'].lower()}") from None
