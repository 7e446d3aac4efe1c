"""Generations that a server does not take up, each with the reason, until CURRENT names another or a person asks.

One per entity type is enough: only what CURRENT names is ever tried. Knows nothing about why.
"""

from __future__ import annotations

import threading


class Quarantine:
    """Any thread may use it."""

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def add(self, entity_type: str, generation: str, reason: str) -> None:
        """Keep a generation away from now on."""
        with self._lock:
            self._reasons[entity_type, generation] = reason

    def reason(self, entity_type: str, generation: str) -> str | None:
        """Why a generation is kept away; None when it is not."""
        with self._lock:
            return self._reasons.get((entity_type, generation))

    def lift_others(self, entity_type: str, generation: str) -> None:
        """Forget the type's generations but this one, which CURRENT names: to name one again is to ask for it."""
        with self._lock:
            for key in [key for key in self._reasons if key[0] == entity_type and key[1] != generation]:
                del self._reasons[key]

    def lift_all(self) -> None:
        """Forget everything, because a person asks."""
        with self._lock:
            self._reasons.clear()

    def named(self, entity_type: str) -> tuple[str, ...]:
        """`generation: reason` of each of the type."""
        with self._lock:
            return tuple(
                f"{key[1]}: {reason}" for key, reason in sorted(self._reasons.items()) if key[0] == entity_type
            )
