"""The marker: up to where a delta's log is acknowledged, for every process that reads it.

It is written after the records are durable and before their caller is told, and is not made durable itself: after a
crash of the machine it may be behind, and is then brought forward over every whole record that lies beyond it. Readers
never look beyond it, so that nobody sees a write that could still vanish.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

_FORM = struct.Struct("<QQQI")
_FILE = "acknowledged"
_TRIES = 50


@dataclass(frozen=True)
class Marker:
    """segment: number in the last segment's name; offset: bytes of it that are acknowledged; next: the next number."""

    segment: int
    offset: int
    next: int


def read_marker(home: Path) -> Marker | None:
    """The marker, None when there is none or it is not whole."""
    for _ in range(_TRIES):
        try:
            data = (home / _FILE).read_bytes()
        except FileNotFoundError:
            return None
        if len(data) == _FORM.size:
            segment, offset, following, crc = _FORM.unpack(data)
            if zlib.crc32(data[:-4]) == crc:
                return Marker(segment, offset, following)
        time.sleep(0.001)  # another process is writing it
    return None


def write_marker(home: Path, marker: Marker) -> None:
    """Put the marker; whoever calls holds the log's lock."""
    body = struct.pack("<QQQ", marker.segment, marker.offset, marker.next)
    handle = os.open(home / _FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.pwrite(handle, body + struct.pack("<I", zlib.crc32(body)), 0)
    finally:
        os.close(handle)
