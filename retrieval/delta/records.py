"""Writes as bytes: the records of the delta's log and the header of its segments.

A segment is MAGIC, a header (length, CRC-32, JSON) and records. A record is a frame (length of the payload, CRC-32 over
the rest of the frame and the payload, number of its first entity, kind) and a payload. Entities are numbered without
gaps from 1; a record of n entities takes n numbers. Records that were synced together are a batch: all but the first
of them say so by the highest bit of their kind. Knows nothing about files.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from retrieval.types import F32, IdType

MAGIC = b"RDELTA1\n"
MAX_RECORD_BYTES = 64 << 20
_UPSERT, _DELETE = 1, 2
_SAME_BATCH = 1 << 31  # with the kind: synced together with the record before
_FRAME = struct.Struct("<IIQI")  # payload bytes, CRC-32, number of the first entity, kind
_HEAD = struct.Struct("<II")  # header bytes, CRC-32
_LENGTH = struct.Struct("<I")
_NUMBER_AT = 8  # bytes of a frame before the number
FRAME_BYTES = _FRAME.size

Ids: TypeAlias = Sequence[str | int]


class Torn(Exception):
    """Bytes that are not a whole record: the end of a file that was being written, or damage."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What every write of a segment shares: the space and size of its vectors, and the type of its ids."""

    space_id: str
    d: int
    id_type: IdType


@dataclass(frozen=True, kw_only=True)
class Upserts:
    """Entities put in place: ids [n], vectors float32 [n, d] as they were given, and attributes of each."""

    ids: Ids
    vectors: F32
    attributes: Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Deletes:
    """Entities taken away, by id [n]."""

    ids: Ids


Write: TypeAlias = Upserts | Deletes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One record as it was read: its entities have the numbers first .. last.

    at: when it was written, seconds since 1970 by the writer's clock; 0 where the record does not say.
    """

    first: int
    write: Write
    header: Header = field(repr=False)
    at: float = 0.0

    @property
    def last(self) -> int:
        """Number of the record's last entity."""
        return self.first + len(self.write.ids) - 1


def pack_header(header: Header) -> bytes:
    """The first bytes of a segment."""
    body = json.dumps({"space_id": header.space_id, "d": header.d, "id_type": str(header.id_type)}).encode()
    return MAGIC + _HEAD.pack(len(body), zlib.crc32(body)) + body


def unpack_header(data: bytes) -> tuple[Header, int]:
    """The header at the start of a segment's bytes, and where its records begin; Torn when it is not whole."""
    start = len(MAGIC) + _HEAD.size
    if len(data) < start or not data.startswith(MAGIC):
        raise Torn("the segment does not begin as one")
    size, crc = _HEAD.unpack_from(data, len(MAGIC))
    body = data[start : start + size]
    if len(body) != size or zlib.crc32(body) != crc:
        raise Torn("the segment's header is damaged")
    values = json.loads(body)
    header = Header(space_id=values["space_id"], d=int(values["d"]), id_type=IdType(values["id_type"]))
    return header, start + size


def pack_payload(write: Write, *, at: float = 0.0) -> tuple[int, bytes]:
    """Kind and payload of a write; ValueError when it is larger than a record may be. at: see `Entry`."""
    values: dict[str, Any] = {"ids": list(write.ids), **({"at": round(at, 3)} if at else {})}
    if isinstance(write, Deletes):
        kind, payload = _DELETE, json.dumps(values, ensure_ascii=False).encode()
    else:
        body = json.dumps({**values, "attributes": list(write.attributes)}, ensure_ascii=False).encode()
        vectors = np.ascontiguousarray(write.vectors, dtype="<f4")
        kind, payload = _UPSERT, _LENGTH.pack(len(body)) + body + vectors.tobytes()
    if len(payload) > MAX_RECORD_BYTES:
        raise ValueError(f"a write of {len(payload):,} bytes, the limit is {MAX_RECORD_BYTES:,}: send fewer entities")
    return kind, payload


def frame(first: int, kind: int, payload: bytes, *, same_batch: bool = False) -> bytes:
    """A whole record. same_batch: it is synced together with the one before."""
    kind |= _SAME_BATCH if same_batch else 0
    return _FRAME.pack(len(payload), _checksum(first, kind, payload), first, kind) + payload


def _checksum(first: int, kind: int, payload: bytes | memoryview) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<QI", first, kind)))


def frame_size(head: bytes) -> int:
    """Bytes of the record whose first FRAME_BYTES these are; Torn when they cannot be."""
    if len(head) < FRAME_BYTES:
        raise Torn("the file ends inside a record")
    size = int(_FRAME.unpack(head)[0])
    if not 0 < size <= MAX_RECORD_BYTES:
        raise Torn(f"a record says that it has {size:,} bytes")
    return FRAME_BYTES + size


def begins_batch(data: bytes, after: int) -> bool:
    """Whether a whole record that begins a batch and has a number above `after` lies in `data`, behind its first byte.

    Lengths may be what is damaged, so a record may begin at any byte.
    """
    if len(data) < FRAME_BYTES:
        return False
    most = after + len(data)  # an entity takes more than a byte
    for shift in range(8):
        numbers = np.frombuffer(data, "<u8", count=(len(data) - shift) // 8, offset=shift)
        for place in np.flatnonzero((numbers > after) & (numbers <= most)).tolist():
            start = shift + 8 * place - _NUMBER_AT
            if start > 0 and _begins_batch(memoryview(data)[start:]):
                return True
    return False


def _begins_batch(data: memoryview) -> bool:
    if len(data) < FRAME_BYTES:
        return False
    size, crc, first, kind = _FRAME.unpack_from(data)
    payload = data[FRAME_BYTES : FRAME_BYTES + size]
    whole = len(payload) == size and _checksum(first, kind, payload) == crc
    return whole and not kind & _SAME_BATCH


def unpack(data: bytes, header: Header, expected: int) -> Entry:
    """The record in `data`; Torn when it is not whole, not the next one, or does not mean anything."""
    size, crc, first, kind = _FRAME.unpack_from(data)
    payload = data[FRAME_BYTES:]
    if len(payload) != size or _checksum(first, kind, payload) != crc:
        raise Torn("a record does not match its checksum")
    if first != expected:
        raise Torn(f"a record has number {first}, the next one is {expected}")
    kind &= ~_SAME_BATCH
    try:
        if kind == _DELETE:
            body = json.loads(payload)
            return Entry(first=first, write=Deletes(ids=body["ids"]), header=header, at=float(body.get("at", 0)))
        if kind != _UPSERT:
            raise Torn(f"a record is of kind {kind}, which this version does not know")
        (length,) = _LENGTH.unpack_from(payload)
        body = json.loads(payload[_LENGTH.size : _LENGTH.size + length])
        vectors = np.frombuffer(payload, "<f4", offset=_LENGTH.size + length).reshape(len(body["ids"]), header.d)
        at = float(body.get("at", 0))
        write = Upserts(ids=body["ids"], vectors=vectors, attributes=body["attributes"])
    except (ValueError, KeyError, struct.error) as error:
        raise Torn(f"a record cannot be read: {error}") from None
    return Entry(first=first, write=write, header=header, at=at)
