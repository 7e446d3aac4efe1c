"""What calls are answered from, by entity type, and what is laid over it: replaced whole, read without a lock.

A generation comes by `put`; fresh entities lie over it as another `Served` with the same description. Knows nothing
about where either comes from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from retrieval.serving.rankings import Served


class Shown:
    """The generations of a server as its calls see them."""

    def __init__(self, served: Mapping[str, Served]) -> None:
        self.all: dict[str, Served] = dict(served)  # a call reads this once
        self.base: dict[str, Served] = self.all  # the same without what is laid over
        self._over: Callable[[Served], Served] | None = None
        self._putting = threading.RLock()

    def put(self, served: Served) -> None:
        """Show this for its entity type."""
        name = served.about.manifest.entity_type
        with self._putting:
            shown = served if self._over is None else self._over(served)
            self.base = {**self.base, name: served}
            self.all = {**self.all, name: shown}

    def replace(self, served: Mapping[str, Served]) -> None:
        """Show these and nothing else, without anything over them."""
        with self._putting:
            self.base = self.all = dict(served)

    def lay_over(self, over: Callable[[Served], Served]) -> None:
        """Show what `over` makes of each generation, of those to come too; `refresh` asks it again."""
        with self._putting:
            self._over = over
            for served in self.base.values():
                self.put(served)

    def refresh(self, entity_type: str) -> None:
        """Ask `over` again for one type."""
        with self._putting:
            self.put(self.base[entity_type])
