"""The generations that a server has in memory, by entity type: the current one, and the one before while it is of use.

The one before serves a rollback, and on a leaf the brokers that have not seen the new one yet: it stays as long as one
of them asks for it, so that a rollout over many leaves needs no timetable. What is let go of is closed when the last
call that uses it has ended, because nothing else refers to it. Knows no files, no gRPC and no canaries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from retrieval.serving.rankings import Served


@dataclass(kw_only=True)
class _Older:
    served: Served
    until: float  # kept for a rollback
    asked: float  # when a broker asked for it last, or when it became older


class Held:
    """What is loaded. Any thread may use it.

    keep_s: seconds that a previous generation stays for a rollback; grace_s: that it stays after it was asked for.
    """

    def __init__(
        self,
        served: Mapping[str, Served],
        *,
        keep_s: float = 0.0,
        grace_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._current = dict(served)
        self._older: dict[str, list[_Older]] = {}
        self._keep_s, self._grace_s, self._clock = keep_s, grace_s, clock
        self._lock = threading.Lock()

    @property
    def current(self) -> dict[str, Served]:
        """The current generation of each entity type."""
        return self._current

    def put(self, served: Served) -> None:
        """Make a generation the current one of its type; the one before becomes the previous one."""
        name, now = served.about.manifest.entity_type, self._clock()
        with self._lock:
            before = self._current.get(name)
            self._current = {**self._current, name: served}
            older = [each for each in self._older.get(name, ()) if _id(each.served) != _id(served)]
            if before is not None and _id(before) != _id(served):
                older.append(_Older(served=before, until=now + self._keep_s, asked=now))
            self._older[name] = older

    def retell(self, served: Served) -> None:
        """Put other words about the current generation in place of those before; nothing for any other one."""
        name = served.about.manifest.entity_type
        with self._lock:
            if name in self._current and _id(self._current[name]) == _id(served):
                self._current = {**self._current, name: served}

    def back(self, served: Served) -> None:
        """Let go of the current generation and make an earlier one current."""
        name = served.about.manifest.entity_type
        with self._lock:
            self._older[name] = [each for each in self._older.get(name, ()) if _id(each.served) != _id(served)]
            self._current = {**self._current, name: served}

    def find(self, entity_type: str, generation: str) -> Served | None:
        """A generation by its id, which counts as asked for; None when it is not here."""
        current = self._current.get(entity_type)
        if current is not None and _id(current) == generation:
            return current
        with self._lock:
            for each in self._older.get(entity_type, ()):
                if _id(each.served) == generation:
                    each.asked = self._clock()
                    return each.served
        return None

    def previous(self, entity_type: str) -> Served | None:
        """The generation before the current one, while it is here."""
        with self._lock:
            older = self._older.get(entity_type)
            return older[-1].served if older else None

    def every(self) -> list[Served]:
        """All that is here, of each type the current one first and then the newest."""
        with self._lock:
            return [
                served
                for name, current in self._current.items()
                for served in (current, *(each.served for each in reversed(self._older.get(name, ()))))
            ]

    def expire(self) -> None:
        """Let go of what is neither kept for a rollback nor asked for any more."""
        now = self._clock()
        with self._lock:
            for name, older in self._older.items():
                self._older[name] = [each for each in older if now < each.until or self._wanted(each, now)]

    def make_room(self, entity_type: str) -> None:
        """Let go of what only a rollback would need, before another generation of the type is loaded."""
        now = self._clock()
        with self._lock:
            self._older[entity_type] = [each for each in self._older.get(entity_type, ()) if self._wanted(each, now)]

    def _wanted(self, each: _Older, now: float) -> bool:
        return self._grace_s > 0 and now < each.asked + self._grace_s


def _id(served: Served) -> str:
    return served.about.manifest.id
