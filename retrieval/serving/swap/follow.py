"""A server that follows its store: looks at CURRENT, swaps generations, watches their canaries, goes back by itself.

One thread does all of it, so that a swap, a replay and a rollback never meet. A generation that fails any step is
quarantined and the one that serves goes on serving; a store that cannot be read is trouble, not a fault of the
generation, and is read again at the next look. CURRENT is never moved from here: a server is not the publisher, and its
own broken memory or library must not take a generation from all others. Knows no gRPC.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from retrieval.errors import MissingDependency, NoGeneration, RetrievalError, StoreError
from retrieval.serving.calls import FollowState
from retrieval.serving.config import ServingSettings
from retrieval.serving.engine import Engine
from retrieval.serving.fleet.part import read_part
from retrieval.serving.rankings import Served
from retrieval.serving.swap.held import Held
from retrieval.serving.swap.origin import Origin
from retrieval.serving.swap.quarantine import Quarantine
from retrieval.serving.swap.ready import ReadyProber
from retrieval.serving.swap.state import TypeState
from retrieval.serving.swap.taker import Taken, Taker
from retrieval.serving.threads import giving_way

_log = logging.getLogger(__name__)
_IDLE_POLL_S = 0.003
_PATIENCE_S = 0.2  # that a canary waits for idle time; a server that is never idle is watched all the same
_REST_S = 0.003  # between a canary and the next, which takes some tenths of a millisecond of a core
_CLOSE_S = 1.0
_EXPIRE_S = 1.0  # between two looks for previous generations that nobody needs any more


class Follower:
    """Keeps an engine at what the store publishes.

    held: where the generations are kept; idle: whether a search in the background hurts nobody now.
    """

    def __init__(
        self,
        engine: Engine,
        held: Held,
        settings: ServingSettings,
        *,
        idle: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._held, self._settings = engine, held, settings
        self._idle, self._clock = idle, clock
        self._quarantine, self._prober = Quarantine(), ReadyProber()
        self._types: dict[str, TypeState] = {name: TypeState() for name in held.current}
        self._origin: Origin | None = None
        self._asked, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.changed: Callable[[str], None] = lambda entity_type: None  # told of a type that is served from now on
        for name, served in held.current.items():
            for refused in served.about.refused:  # found at the start: not to be tried again at the first look
                generation, _, reason = refused.partition(": ")
                self._quarantine.add(name, generation, reason)

    def start(self) -> None:
        """Begin to follow in a thread of its own."""
        self._thread = threading.Thread(target=self._run, name="swap", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Look now, and try again what is quarantined: what SIGHUP does."""
        self._asked.set()
        self._wake.set()

    def close(self) -> None:
        """Stop following; a swap that is at work is given up, and what probes for it ends by itself."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        self._prober.close()

    def states(self) -> tuple[FollowState, ...]:
        """How each entity type follows, for `Describe` and the metrics."""
        return tuple(
            each.tell(name, self._held, self._quarantine.named(name)) for name, each in sorted(self._types.items())
        )

    def look(self) -> None:
        """Look at CURRENT of every entity type once, and take up what is new."""
        if self._origin is None:
            self._origin = Origin(self._settings)
        origin = self._origin
        part = read_part(self._settings.shards if self._settings.role == "shard" else None)
        try:
            there = origin.entity_types()
        except StoreError as error:
            for name in self._held.current:
                self._note_trouble(name, error)
            return
        for name in sorted({*there, *self._held.current}):
            if self._closing.is_set():
                return
            if part is not None and name not in part:
                continue
            try:
                published = origin.current(name)
            except RetrievalError as error:
                if name in self._held.current or not isinstance(error, NoGeneration):
                    self._note_trouble(name, error)
                continue
            self._look_at(name, published)

    def replay(self) -> None:
        """Replay the canaries of everything that is served; go back where they fail in the time after a swap."""
        for name, served in self._held.current.items():
            if self._closing.is_set():
                return
            each = self._types[name]
            try:
                if each.canaries is None:  # of what was loaded at the start, which has been probed then
                    if self._origin is None:
                        self._origin = Origin(self._settings)
                    each.canaries = self._taker(self._origin).watch(served)
                each.recall, fault = each.canaries.replay(self._wait_idle, self._settings.follow.canary_drift)
            except _Closing:
                return
            except Exception as error:
                fault = str(error) or type(error).__name__
            if fault and not each.alarm:
                _log.error("the canaries of %s generation %s: %s", name, served.about.manifest.id, fault)
            each.alarm = fault
            if fault and self._clock() < each.watched_until:
                self._go_back(name, served, fault)

    def _look_at(self, name: str, published: str) -> None:
        each = self._types.setdefault(name, TypeState())
        each.published = published
        self._quarantine.lift_others(name, published)
        served = self._held.current.get(name)
        if served is not None and served.about.manifest.id == published:
            each.trouble = ""
            if served.about.refused:
                self._tell_refused(name)
            return
        if self._quarantine.reason(name, published) is None:
            self._swap(name, published, each)

    def _swap(self, name: str, generation: str, each: TypeState) -> None:
        assert self._origin is not None
        origin, began = self._origin, time.monotonic()
        before = self._held.current.get(name)
        old = None if before is None else before.about.manifest
        try:
            origin.bring(name, generation)
        except (StoreError, NoGeneration) as error:
            self._note_trouble(name, error)
            return
        except Exception as error:
            self._refuse(name, generation, error)
            return
        each.trouble = ""
        try:
            with origin.alone(name):
                taken = self._load(origin, name, generation)
        except _Closing:
            return
        except (StoreError, MissingDependency) as error:  # of this machine; the generation is tried again
            if self._closing.is_set():
                return
            self._note_trouble(name, error)
            return
        except Exception as error:
            self._refuse(name, generation, error)
            return
        try:
            if origin.current(name) != generation:  # moved on meanwhile: the next look takes up that one
                self._wake.set()
                return
        except RetrievalError as error:
            self._note_trouble(name, error)
            return
        try:
            self._serve(name, taken.served)
        except Exception as error:  # fresh entities cannot be laid over it, which is no fault of the generation
            self._note_trouble(name, error)
            return
        each.canaries, each.recall, each.alarm = taken.canaries, taken.recall, ""
        each.before = None if old is None else old.id
        each.watched_until = self._clock() + self._settings.follow.watch_seconds
        each.swaps += 1
        origin.settled(name, generation, None if old is None else old.id)
        _log.info(
            "%s: generation %s serves in place of %s, after %.1f s; canaries %.3f",
            name, generation, "nothing" if old is None else old.id, time.monotonic() - began, taken.recall,
        )  # fmt: skip
        self.changed(name)

    def _load(self, origin: Origin, name: str, generation: str) -> Taken:
        taker = self._taker(origin)
        previous, before = self._held.previous(name), self._held.current.get(name)
        if previous is not None and previous.about.manifest.id == generation:  # a rollback of the store
            return taker.replay(previous)
        del previous  # the last reference to it, else three generations would be loaded at once
        self._held.make_room(name)
        return taker.take_up(name, generation, None if before is None else before.about.manifest)

    def _taker(self, origin: Origin) -> Taker:
        return Taker(origin, self._settings, self._engine.tower, self._prober, self._wait_idle)

    def _serve(self, name: str, served: Served) -> None:
        self._engine.put(served)  # may fail where fresh entities cannot be laid over it; then nothing has changed
        self._held.put(served)
        if self._engine.live is not None:
            self._engine.live.forget(name)

    def _go_back(self, name: str, served: Served, fault: str) -> None:
        each, bad = self._types[name], served.about.manifest.id
        try:
            previous = self._held.previous(name) or self._reloaded(name, each.before)
            if previous is None:
                _log.error("%s: there is no generation to go back to from %s", name, bad)
                return
            self._engine.put(previous)  # may fail as in `_serve`
        except _Closing:
            return
        except Exception as error:  # tried again at the next replay
            _log.error("%s cannot go back from %s: %s", name, bad, error)
            return
        self._held.back(previous)
        self._quarantine.add(name, bad, fault)
        if self._engine.live is not None:
            self._engine.live.forget(name)
        self._tell_refused(name)
        each.canaries, each.recall, each.alarm, each.watched_until = None, None, "", 0.0
        each.before = None
        each.rollbacks += 1
        _log.error("%s: back to generation %s from %s, which is quarantined", name, previous.about.manifest.id, bad)
        self.changed(name)

    def _reloaded(self, name: str, generation: str | None) -> Served | None:
        """What the last swap replaced, which made room for a newer generation that was not good."""
        if generation is None:
            return None
        if self._origin is None:
            self._origin = Origin(self._settings)
        with self._origin.alone(name):
            return self._taker(self._origin).take_up(name, generation, None).served

    def _refuse(self, name: str, generation: str, error: Exception) -> None:
        reason = str(error) if isinstance(error, RetrievalError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, RetrievalError):
            _log.exception("taking up %s generation %s failed", name, generation)
        _log.error("quarantined %s generation %s: %s", name, generation, reason)
        self._quarantine.add(name, generation, reason)
        self._tell_refused(name)

    def _tell_refused(self, name: str) -> None:
        """Say beside what is served which newer one is refused, where callers of `Describe` have always found it."""
        served = self._held.current.get(name)
        if served is not None:
            told = replace(served, about=replace(served.about, refused=self._quarantine.named(name)))
            self._held.retell(told)
            self._engine.put(told)

    def _note_trouble(self, name: str, error: Exception) -> None:
        each = self._types.setdefault(name, TypeState())
        if each.trouble != str(error):
            _log.warning("%s is not followed for now: %s", name, error)
        each.trouble = str(error)

    def _wait_idle(self) -> None:
        until = time.monotonic() + _PATIENCE_S
        self._closing.wait(_REST_S)
        while not self._idle() and time.monotonic() < until:
            self._closing.wait(_IDLE_POLL_S)
        if self._closing.is_set():
            raise _Closing

    def _run(self) -> None:
        follow = self._settings.follow
        now = self._clock()
        look_at, replay_at = now + follow.poll_seconds, now + follow.canary_seconds
        while not self._closing.is_set():
            self._wake.wait(_EXPIRE_S if follow.poll_seconds == 0 else min(_EXPIRE_S, follow.poll_seconds))
            self._wake.clear()
            now = self._clock()
            asked = self._asked.is_set()
            try:
                self._held.expire()
                if asked:
                    self._asked.clear()
                    self._quarantine.lift_all()
                if asked or (follow.poll_seconds and now >= look_at):
                    self._prober.start()
                    with giving_way():
                        self.look()
                    look_at = self._clock() + follow.poll_seconds
                if follow.canary_seconds and now >= replay_at:
                    with giving_way():
                        self.replay()
                    replay_at = self._clock() + follow.canary_seconds
            except Exception:  # what serves goes on serving, and the store is looked at again
                _log.exception("following the store failed")
                look_at = self._clock() + follow.poll_seconds


class _Closing(Exception):
    """The server ends while a generation is taken up."""
