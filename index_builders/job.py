"""What a rebuild asks of a build beyond its settings: a lease to publish under, a judge to ask first, shards to reuse.

Knows nothing about stages, gates or sources.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from index_builders.train import Inherited
from retrieval.store import Generation
from retrieval.store.pointer import Checked


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge allows to be published. gate: what it measured; approved: why a person overruled it, if so.

    replayed: it has replayed the canaries on the staged files, and they came back.
    """

    gate: dict[str, Any] = field(default_factory=dict)
    approved: str | None = None
    replayed: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rebuild. judge: sees the staged generation and raises when it must not be published.

    parent: the generation that is live, and has to be when the pointer moves. lease: checked right before that.
    carry_above: share of the rows in unchanged shards from which on figures of `parent` may stand for measuring again.
    delta_position: writes of the delta that the source holds. inherited: the quantizer of `parent`, and its SHA-256.
    tuned: the bounds that kind and parameters were chosen by, for the shards' reports.
    source_sha256: of each file of the source, in their order, where they have been hashed already.
    taken: ids of generations at the URL that the new one will be copied to.
    """

    judge: Callable[[Generation], Verdict]
    parent: str | None
    lease: Checked | None = None
    carry_above: float = 0.9
    delta_position: int = 0
    inherited: Inherited | None = None
    inherited_sha256: str | None = None
    tuned: dict[str, Any] | None = None
    source_sha256: list[str] | None = None
    taken: tuple[str, ...] = ()
