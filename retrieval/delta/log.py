"""The write-ahead log of one entity type's delta: durable before acknowledged, one writer at a time over all processes.

Calls that arrive while the disk is syncing are written and synced together (group commit). A file lock keeps processes
apart; it is let go of by the system when its holder dies. What a dying writer left half is cut off by the next one. A
write that fails is cut off at once and nothing of it is acknowledged. Knows nothing about searching.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeAlias

from retrieval.delta.marker import Marker, read_marker, write_marker
from retrieval.delta.records import Header, Write, frame, pack_header, pack_payload
from retrieval.delta.segments import read_header, recover, segment_path, segments
from retrieval.errors import InvalidArgument, StoreError

FsyncPolicy: TypeAlias = Literal["each", "batch", "none"]
SEGMENT_BYTES = 64 << 20


class _Ticket:
    def __init__(self, kind: int, payload: bytes, count: int) -> None:
        self.kind, self.payload, self.count = kind, payload, count
        self.last = 0
        self.error: Exception | None = None
        self.done = False


class DeltaLog:
    """The log in folder `home`, made when it does not exist. Any number of threads and processes may append.

    fsync: "batch" syncs once for all calls that wait, "each" once for every call, "none" leaves it to the system (a
    crash of the machine then loses acknowledged writes, a crash of the process does not). after: numbers up to this
    one are never given, since generations hold what had them: readers would pass a write with one of them over.
    """

    def __init__(
        self,
        home: Path,
        header: Header,
        *,
        fsync: FsyncPolicy = "batch",
        segment_bytes: int = SEGMENT_BYTES,
        after: int = 0,
    ) -> None:
        self._home, self.header, self._fsync, self._segment_bytes = home, header, fsync, segment_bytes
        self.after = after
        self._arrivals = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._writing = threading.Lock()
        self._broken = ""
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot create {home}: {error.strerror}") from error
        with locked(home):
            recover(home)

    def append(self, write: Write) -> int:
        """Write, make durable, and return the number of the write's last entity.

        Raises InvalidArgument for a write that is too large, StoreError when the disk refuses: nothing of it is left.
        """
        try:
            ticket = _Ticket(*pack_payload(write, at=time.time()), len(write.ids))
        except ValueError as error:
            raise InvalidArgument(str(error)) from None
        with self._arrivals:
            self._waiting.append(ticket)
        with self._writing:
            if not ticket.done:
                with self._arrivals:
                    if self._fsync == "each":
                        batch = [ticket]
                        self._waiting.remove(ticket)
                    else:
                        batch, self._waiting = self._waiting, []
                self._commit(batch)
        if ticket.error is not None:
            raise ticket.error
        return ticket.last

    def _commit(self, batch: list[_Ticket]) -> None:
        try:
            if self._broken:
                raise StoreError(self._broken)
            with locked(self._home):
                self._write(batch)
        except OSError as error:
            refused = StoreError(f"cannot write the delta's log in {self._home}: {error.strerror}")
            for ticket in batch:
                ticket.error = refused
        except Exception as error:  # whatever it was, nobody of the batch may be told that the write is durable
            for ticket in batch:
                ticket.error = error
        finally:
            for ticket in batch:
                ticket.done = True

    def _write(self, batch: list[_Ticket]) -> None:
        marker = self._tail()
        path = segment_path(self._home, marker.segment)
        following, records = marker.next, list[bytes]()
        for ticket in batch:
            records.append(frame(following, ticket.kind, ticket.payload, same_batch=bool(records)))
            following += ticket.count
            ticket.last = following - 1
        data = b"".join(records)
        handle = os.open(path, os.O_WRONLY)
        try:
            os.lseek(handle, marker.offset, os.SEEK_SET)
            try:
                written = 0
                while written < len(data):
                    written += os.write(handle, data[written:])
            except OSError:
                os.ftruncate(handle, marker.offset)
                raise
            try:
                if self._fsync != "none":
                    os.fdatasync(handle)
            except OSError as error:
                # what the disk holds is unknown now: the system drops pages that it could not write
                self._broken = f"the delta's log in {self._home} could not be synced ({error.strerror}): restart"
                with suppress(OSError):
                    os.ftruncate(handle, marker.offset)
                raise
        finally:
            os.close(handle)
        write_marker(self._home, Marker(marker.segment, marker.offset + len(data), following))

    def _tail(self) -> Marker:
        """Where the next record goes: behind whatever any process wrote, in a new segment when this one is full."""
        known = segments(self._home)
        marker = read_marker(self._home)
        if known:
            path = segment_path(self._home, known[-1])
            if marker is None or marker.segment != known[-1] or path.stat().st_size != marker.offset:
                marker = recover(self._home)
            assert marker is not None
            room = marker.offset < self._segment_bytes and marker.next > self.after
            if room and read_header(path)[0] == self.header:
                return marker
        return self._new_segment(max(1 if marker is None else marker.next, self.after + 1))

    def _new_segment(self, first: int) -> Marker:
        path, data = segment_path(self._home, first), pack_header(self.header)
        # a segment without a record has the name that the next one would get: its header is replaced
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(self._home, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        marker = Marker(first, len(data), first)
        write_marker(self._home, marker)
        return marker


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the log's lock, waiting for it."""
    with (home / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def trim(home: Path, position: int) -> list[str]:
    """Remove segments all of whose writes are numbered up to `position`; the last segment stays. Names removed."""
    if not home.is_dir():
        return []
    removed = []
    with locked(home):
        known = segments(home)
        for first, following in itertools.pairwise(known):
            if following - 1 <= position:
                segment_path(home, first).unlink()
                removed.append(segment_path(home, first).name)
    return removed
