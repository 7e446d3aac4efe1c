"""A lock with a lease: of two jobs on one entity type one publishes, on local disk and on object storage alike.

The lease is one small file, `lease.json`, in the home of the entity type. It is taken, renewed and given back only by
conditional writes (`place`): in a folder under flock, on S3 by `If-None-Match: *` and `If-Match: <ETag>`; where the
backend has none, or ignores them, the lease is refused. No wall clocks are compared: an observer who sees the very same
file for the whole lease time, by its own monotonic clock, may take it; a holder stops believing in its lease a tenth
before that. Every taking raises the fence, a number that later holders only exceed (Gray and Cheriton, "Leases", SOSP
1989). Knows nothing about what is done under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from retrieval.errors import FailedPrecondition, InvalidArgument, StoreError
from retrieval.store.lease_record import LEASE_FILE, LeaseRecord, is_gone, own_record, read_record
from retrieval.store.place import Held, Place, RemoteSettings, open_place

MIN_LEASE_S, MAX_LEASE_S = 0.2, 3600.0
_RENEW_AT_LEAST_EVERY_S = 3.0  # so that a second job learns within seconds that the first is alive
_MARGIN = 0.9  # share of the lease time for which a holder believes in an unrenewed lease


class Lease:
    """The right to publish into one home (STORE/<entity_type>, a folder or URL), renewed by a thread while it is held.

    with Lease(home, owner="rebuild") as lease: ... lease.check() ...

    owner: what a second job is told is at work. lease_s: how long a dead job blocks others; a job that died on this
    machine is found out at once. wait_s: how long to wait for a living holder to finish; 0 refuses as soon as one
    proves to be alive.
    """

    def __init__(
        self,
        home: Path | str | Place,
        *,
        owner: str,
        lease_s: float = 30.0,
        wait_s: float = 0.0,
        settings: RemoteSettings | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if not MIN_LEASE_S <= lease_s <= MAX_LEASE_S:
            raise InvalidArgument(f"lease_s = {lease_s} is not acceptable: {MIN_LEASE_S} to {MAX_LEASE_S} seconds")
        self._place = open_place(home, settings) if isinstance(home, (Path, str)) else home
        self._owner, self._lease_s, self._wait_s = owner, lease_s, wait_s
        self._clock = clock or _monotonic
        self._record: LeaseRecord | None = None
        self._held: Held | None = None
        self._believed_until = self._began = 0.0
        self._why_lost = ""
        self._guard = threading.Lock()  # over the fields above and the renewal itself
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def fence(self) -> int:
        """The number of this taking: greater than that of every holder before. 0 before it is held."""
        return self._record.fence if self._record is not None else 0

    def acquire(self) -> Lease:
        """Take the lease, waiting out a dead holder; FailedPrecondition names a living one."""
        began = self._clock()
        seen: Held | None = None
        seen_at, alive = began, False
        while True:
            held = self._place.read(LEASE_FILE)
            record = read_record(held)
            if held is None or record is None or not record.held or is_gone(record):
                if self._take(held, record):
                    break
            elif seen is None or held.version != seen.version:
                alive = seen is not None  # it changed before our eyes
                seen, seen_at = held, self._clock()
            elif self._clock() - seen_at >= (record.lease_s or self._lease_s) and self._take(held, record):
                break
            if alive and record is not None and record.held and self._clock() - began >= self._wait_s:
                raise FailedPrecondition(
                    f"{record.owner} is at work on {self._place.where} (process {record.process} on {record.host}, for "
                    f"{record.held_s:.0f} s): wait until it ends, or stop it"
                )
            time.sleep(min(self._lease_s, record.lease_s if record and record.lease_s else self._lease_s, 5.0) / 10)
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew_until_stopped, name="lease", daemon=True)
        self._thread.start()
        return self

    def check(self) -> None:
        """Read the lease back and raise FailedPrecondition unless it is still this job's; call it before publishing."""
        with self._guard:
            self._believe()
            found = self._place.read(LEASE_FILE)
            if found is None or self._held is None or found.version != self._held.version:
                self._lose(_whose(read_record(found)))
            self._believe()

    def release(self) -> None:
        """Stop renewing and let the next job in at once. The file stays, since it holds the fence."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._guard:
            if self._held is not None and self._record is not None and not self._why_lost:
                freed = self._record.model_copy(update={"held": False})
                with suppress(StoreError):  # a lease that cannot be given back runs out by itself
                    self._place.replace(LEASE_FILE, freed.to_bytes(), self._held)
            self._held = None

    def __enter__(self) -> Lease:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _take(self, held: Held | None, before: LeaseRecord | None) -> bool:
        sent_at = self._clock()
        record = own_record(self._owner, self._lease_s, fence=(before.fence if before else 0) + 1)
        data = record.to_bytes()
        taken = self._place.create(LEASE_FILE, data) if held is None else self._place.replace(LEASE_FILE, data, held)
        if taken is None:
            taken = self._written_after_all(data)
            if taken is None:
                return False
        if not self._place.local:
            self._prove_conditions(data)
        self._record, self._held, self._why_lost = record, taken, ""
        self._began, self._believed_until = sent_at, sent_at + _MARGIN * self._lease_s
        return True

    def _written_after_all(self, data: bytes) -> Held | None:
        """A refused write may be the second try of one that arrived; its token then is ours."""
        found = self._place.read(LEASE_FILE)
        return found if found is not None and found.data == data else None

    def _prove_conditions(self, data: bytes) -> None:
        """Some servers ignore the conditions; writes of the same bytes that must be refused tell."""
        wrong = Held(data=b"", version='"00000000000000000000000000000000"')
        if self._place.create(LEASE_FILE, data) or self._place.replace(LEASE_FILE, data, wrong):
            raise FailedPrecondition(
                f"{self._place.where} ignores conditional writes, so two jobs could publish at once: use a storage "
                "that honours If-None-Match and If-Match, or a folder"
            )

    def _renew_until_stopped(self) -> None:
        while not self._stop.wait(min(self._lease_s / 3, _RENEW_AT_LEAST_EVERY_S)):
            with self._guard:
                if self._why_lost or self._record is None or self._held is None:
                    return
                self._renew(self._record, self._held)

    def _renew(self, record: LeaseRecord, held: Held) -> None:
        sent_at = self._clock()
        fresh = record.model_copy(update={"beat": record.beat + 1, "held_s": sent_at - self._began})
        data = fresh.to_bytes()
        try:
            renewed = self._place.replace(LEASE_FILE, data, held) or self._written_after_all(data)
            if renewed is None:
                found = self._place.read(LEASE_FILE)
                if found is not None and found.version == held.version:
                    return  # refused for a passing reason; tried again until it runs out
                self._why_lost = _whose(read_record(found))
                return
        except StoreError:
            return  # unreachable for now; it runs out by itself if that lasts
        self._record, self._held = fresh, renewed
        self._believed_until = sent_at + _MARGIN * self._lease_s

    def _believe(self) -> None:
        if self._held is None and not self._why_lost:
            raise FailedPrecondition(f"the lease of {self._place.where} is not held, so nothing may be published")
        if not self._why_lost and self._clock() >= self._believed_until:
            self._why_lost = f"it could not be renewed for {_MARGIN * self._lease_s:.1f} s"
        if self._why_lost:
            self._lose(self._why_lost)

    def _lose(self, why: str) -> None:
        self._why_lost = why
        raise FailedPrecondition(
            f"{self._owner} has lost its lease of {self._place.where} ({why}), so it publishes nothing: run it again"
        )


def _whose(record: LeaseRecord | None) -> str:
    if record is None:
        return "its file is gone"
    return f"{record.owner}, process {record.process} on {record.host}, has taken it"


def _monotonic() -> float:
    """Seconds that go on while the machine sleeps: a holder that was suspended has to know that time has passed."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
