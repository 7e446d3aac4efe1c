"""A real fleet on this machine for the capacity measurements: leaves and brokers as `retrieval serve` starts them.

Knows nothing about load or figures.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load_store import ENTITY_TYPE, ServerProcess


class FleetServers:
    """Leaves by their groups of shards, and what closes them."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stack = contextlib.ExitStack()
        self.leaves: list[ServerProcess] = []

    def leaf(self, numbers: Sequence[int]) -> ServerProcess:
        """A leaf with these shards, serving."""
        shards = f"{ENTITY_TYPE}:{','.join(map(str, numbers))}"
        server = self._start("shard", shards)
        self.leaves.append(server)
        return server

    def broker(self, leaves: Sequence[ServerProcess]) -> ServerProcess:
        """A broker over these leaves, serving; it hedges nothing, since no shard has a second holder."""
        return self._start("broker", ",".join(leaf.target for leaf in leaves))

    def _start(self, role: str, shards: str) -> ServerProcess:
        # no looks at CURRENT: the first one starts a process that imports everything, beside what is measured
        settings = [f"role={role}", f"shards={shards}", "threads=16", "follow.poll_seconds=0"]
        server = ServerProcess(self._store, workers=1, settings=settings)
        self._stack.callback(server.stop)
        return server

    def close(self) -> None:
        """End all."""
        self._stack.close()


@contextlib.contextmanager
def fleet_servers(store: Path) -> Iterator[FleetServers]:
    """A fleet that ends with the block."""
    fleet = FleetServers(store)
    try:
        yield fleet
    finally:
        fleet.close()
