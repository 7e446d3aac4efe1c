"""The segments of a delta's log as files: their names, their records in order, and what a crash left behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from retrieval.delta.marker import Marker, read_marker, write_marker
from retrieval.delta.records import FRAME_BYTES, Entry, Header, Torn, begins_batch, frame_size, unpack, unpack_header
from retrieval.errors import DamagedData

_NAME = re.compile(r"segment-([0-9]{20})\.log")
_HEADER_BYTES = 4096


def segment_path(home: Path, first: int) -> Path:
    """File of the segment whose first entity has this number."""
    return home / f"segment-{first:020d}.log"


def segments(home: Path) -> list[int]:
    """Numbers of the first entities of all segments, ascending."""
    if not home.is_dir():
        return []
    return sorted(int(found[1]) for path in home.iterdir() if (found := _NAME.fullmatch(path.name)))


def read_header(path: Path) -> tuple[Header, int]:
    """Header of a segment and where its records begin; DamagedData when it is not whole."""
    with path.open("rb") as file:
        try:
            return unpack_header(file.read(_HEADER_BYTES))
        except Torn as torn:
            raise DamagedData(
                f"{path} is damaged at byte 0: {torn}; restore it, or rebuild without the delta"
            ) from None


def read_records(path: Path, offset: int, expected: int, end: int | None = None) -> Iterator[tuple[Entry, int]]:
    """Records of a segment from byte `offset` to `end` (the file's end), each with the byte where it ends.

    expected: number of the first entity there. Torn, with the byte in its second argument, where one is not whole.
    """
    header, _ = read_header(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if end is None else end
        file.seek(offset)
        while offset < size:
            try:
                head = file.read(FRAME_BYTES)
                length = frame_size(head)
                if offset + length > size:
                    raise Torn("the file ends inside a record")
                entry = unpack(head + file.read(length - FRAME_BYTES), header, expected)
            except Torn as torn:
                raise Torn(str(torn), offset) from None
            offset += length
            expected = entry.last + 1
            yield entry, offset


def recover(home: Path) -> Marker | None:
    """Bring the marker over every whole record and cut off what a dying writer left; None for a log without writes.

    Whoever calls holds the log's lock. DamagedData when a record that was acknowledged, or one that a later batch
    follows, is not whole.
    """
    known = segments(home)
    if not known:
        return None
    last = known[-1]
    path = segment_path(home, last)
    _, start = read_header(path)
    marker = read_marker(home)
    if marker is None or marker.segment != last:
        acknowledged, marker = start, Marker(last, start, last)
    else:
        acknowledged = marker.offset
    size = path.stat().st_size
    if size < acknowledged:
        raise DamagedData(f"{path} has {size:,} bytes, {acknowledged:,} were acknowledged: restore it")
    offset, expected = marker.offset, marker.next
    try:
        for entry, offset in read_records(path, marker.offset, marker.next):  # noqa: B007 - the last one counts
            expected = entry.last + 1
    except Torn as torn:
        at = int(torn.args[1])
        if _others_follow(path, at, expected):
            raise damaged(path, at, torn) from None
        offset = at
        os.truncate(path, at)
    found = Marker(last, offset, expected)
    if found != read_marker(home):
        write_marker(home, found)
    return found


def damaged(path: Path, offset: int, torn: Torn) -> DamagedData:
    """The error for a record that should be whole."""
    return DamagedData(
        f"{path} is damaged at byte {offset:,}: {torn.args[0]}; restore the file, or rebuild without the delta"
    )


def _others_follow(path: Path, offset: int, number: int) -> bool:
    """Whether a later batch lies behind the record `number` at byte `offset`.

    A dying process leaves the beginning of a batch, a machine that loses power may leave any pages of it: only the
    last batch can be torn, but anywhere in it.
    """
    with path.open("rb") as file:
        file.seek(offset)
        return begins_batch(file.read(), number)
