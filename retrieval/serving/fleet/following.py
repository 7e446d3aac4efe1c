"""What an engine needs to know of a fleet of leaves: what it serves now, and how its leaves are. Knows no gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from retrieval.serving.calls import LeafState
from retrieval.serving.rankings import Served


class Fleet(Protocol):
    """Leaves on other hosts, looked at in the background."""

    def watch(self, changed: Callable[[dict[str, Served]], None]) -> None:
        """Tell what to serve from now on, whenever that changes."""
        ...

    def states(self) -> tuple[LeafState, ...]:
        """The leaves as they are now."""
        ...

    def close(self) -> None:
        """Stop looking."""
        ...
