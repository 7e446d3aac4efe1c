"""What one run of a rebuild job did, for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retrieval.types import StrEnum


class Outcome(StrEnum):
    """How a run ended."""

    PUBLISHED = "published"
    UNCHANGED = "unchanged"
    REFUSED = "refused"  # by the gate: the generation before serves on


@dataclass(frozen=True, kw_only=True)
class RebuildReport:
    """generation: what the inputs make, or made; None when the gate refused it.

    embedded: rows that went through the entity tower; reused, built: shards; folded: writes of the delta taken in;
    notes: what a person should read; gate_report: its files; findings: why the gate said no, overruled
    or not, a sentence for each limit; cpu_s: CPU seconds by stage (`index_builders.rebuild.stage_cpu`).
    """

    outcome: Outcome
    entity_type: str
    generation: str | None
    parent: str | None
    rows: int
    embedded: int = 0
    reused: int = 0
    built: int = 0
    folded: int = 0
    removed: list[str] = field(default_factory=list)
    approved: str | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    gate_report: list[Path] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            **asdict(self),
            "outcome": str(self.outcome),
            "gate_report": [str(path) for path in self.gate_report],
            "seconds": round(self.seconds, 3),
        }
