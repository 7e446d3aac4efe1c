"""Reading a delta's log as it grows: every acknowledged record once, in order, from any process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from retrieval.delta.log import locked
from retrieval.delta.marker import read_marker
from retrieval.delta.records import Entry, Torn
from retrieval.delta.segments import damaged, read_header, read_records, recover, segment_path, segments
from retrieval.errors import DamagedData


class LogReader:
    """Follows the log in folder `home`, which need not exist yet; one thread at a time.

    after: writes up to this number are passed over.
    """

    def __init__(self, home: Path, *, after: int = 0) -> None:
        self._home = home
        self.position = after
        self._segment: int | None = None
        self._offset = self._next = 0
        self.missing = 0  # writes behind `after` that the log no longer has: another generation took them in
        if home.is_dir():
            with locked(home):
                recover(home)

    def read(self) -> Iterator[Entry]:
        """What was acknowledged since the last call. DamagedData naming file and byte when a record is not whole."""
        marker = read_marker(self._home)
        if marker is None or marker.next - 1 <= self.position:
            return
        known = segments(self._home)
        if self._segment is None:
            earlier = [first for first in known if first <= self.position + 1]
            if not earlier:
                self.missing = known[0] - 1 - self.position
            self._enter(earlier[-1] if earlier else known[0])
        while True:
            assert self._segment is not None
            path = segment_path(self._home, self._segment)
            whole = self._segment != marker.segment
            end = path.stat().st_size if whole else marker.offset
            try:
                for entry, offset in read_records(path, self._offset, self._next, end):
                    if entry.last > self.position:
                        yield entry  # whoever fails with it meets it again
                        self.position = entry.last
                    self._offset, self._next = offset, entry.last + 1
            except Torn as torn:
                raise damaged(path, int(torn.args[1]), torn) from None
            if not whole:
                return
            if self._next not in known or self._next == self._segment:
                raise DamagedData(f"{segment_path(self._home, self._next)} is missing: restore it")
            self._enter(self._next)

    def _enter(self, first: int) -> None:
        self._segment = self._next = first
        self._offset = read_header(segment_path(self._home, first))[1]
