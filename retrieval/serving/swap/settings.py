"""Settings of what a running server does when the store publishes another generation."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class FollowSettings(BaseModel):
    """How a server follows CURRENT, watches its canaries, and goes back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poll_seconds: float = Field(
        default=10.0,
        ge=0,
        le=86_400,
        description="time between two looks at CURRENT; 0 follows only when asked by SIGHUP, so that a person decides "
        "when each server changes",
    )
    cache: Path | None = Field(
        default=None,
        description="local folder for the generations of a store at a URL; they are served from there, and it needs "
        "room for three of each entity type",
    )
    canary_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="time between two replays of the canaries of what is served, in idle time; 0 replays them only "
        "before a swap",
    )
    canary_drift: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="share of the canaries' answers that may be lost, against the replay before the swap, before it "
        "is an alarm",
    )
    watch_seconds: float = Field(
        default=600.0,
        ge=0,
        le=86_400,
        description="time after a swap in which an alarm of the canaries rolls the server back; the previous "
        "generation stays loaded for it",
    )
    grace_seconds: float = Field(
        default=60.0,
        ge=0,
        le=86_400,
        description="of a leaf: how long it goes on answering for the previous generation after a broker asked for it "
        "last; longer than brokers take to look at all leaves",
    )
