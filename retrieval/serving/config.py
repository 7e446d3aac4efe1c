"""Settings of the server: each with its default, its limits and the reason a person would change it.

Frozen; an unknown key is an error. Reads no file and no environment variable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from retrieval.errors import InvalidParams
from retrieval.serving.calls import Limits

MIB = 1024 * 1024


class ServingSettings(BaseModel):
    """Everything `retrieval serve` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: Path = Field(description="store whose live generations are served")
    checkpoint: Path | None = Field(None, description="query tower; without one only vectors and entities are searched")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 opens it to other hosts")
    port: int = Field(8980, ge=0, le=65_535, description="port to listen on; 0 picks a free one")
    threads: int = Field(
        0,
        ge=0,
        le=1_024,
        description="calls at work at once; 0 takes twice the cores, so that cheap calls do not wait behind deep ones",
    )
    shard_threads: int = Field(
        0,
        ge=0,
        le=256,
        description="threads that search one call's shards side by side; 0 searches them in sequence, which gives the "
        "most queries per second once calls come together; a pool shortens a lone call on idle cores",
    )
    torch_threads: int = Field(
        0, ge=0, le=256, description="threads of the tower for one text; 0 takes one per core; lower it under load"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="what the tower computes in; auto takes bfloat16, which is faster, where the CPU has it and a "
        "check at load finds it near float32 (cosine from 0.99)",
    )
    drain_seconds: float = Field(
        10.0, ge=0, le=3_600, description="time that calls in flight get on SIGTERM; longer than the longest deadline"
    )
    max_batch: int = Field(1_000, ge=1, le=100_000, description="queries or texts in one call; bounds its time")
    max_candidates: int = Field(
        1_000_000, ge=10_000, le=100_000_000, description="queries x k x entity types of one call; bounds its memory"
    )
    max_message_bytes: int = Field(
        16 * MIB, ge=1_024, le=512 * MIB, description="size of a request; bounds the memory an unread call costs"
    )
    max_answer_bytes: int = Field(
        64 * MIB, ge=1_024, le=1_024 * MIB, description="size of an answer; attributes make it large"
    )
    probe_seconds: float = Field(
        600.0, gt=0, le=86_400, description="time a new generation gets to be opened and probed in a child process"
    )
    checksum_threads: int = Field(4, ge=1, le=64, description="files checked side by side while a generation is opened")

    @property
    def limits(self) -> Limits:
        """The limits that calls are held to."""
        return Limits(
            max_batch=self.max_batch, max_candidates=self.max_candidates, max_message_bytes=self.max_message_bytes
        )


def make_settings(**values: Any) -> ServingSettings:
    """Settings from keywords; InvalidParams names the first bad one, its value and its limits."""
    try:
        return ServingSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = ", ".join(ServingSettings.model_fields)
            raise InvalidParams(f"there is no setting {name!r}; the settings are {known}") from None
        raise InvalidParams(f"setting {name} = {first['input']!r} is not acceptable: {first['msg'].lower()}") from None
