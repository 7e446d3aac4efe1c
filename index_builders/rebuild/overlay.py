"""The overlay of a job: the latest write of every entity that the delta ever told of, kept when its log is trimmed.

WORK/overlay.arrow has a row for each id: its vector and attributes, or that it was deleted, and a hash of what the
source said of the id when the write was taken in. Where the source says something else of it later, the source is the
newer word and the entry is dropped. Knows nothing about shards.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from index_builders.staging import fsync, temporary_name, writing
from retrieval.delta import Folded, Header, fold
from retrieval.errors import DamagedData, FailedPrecondition, SpaceMismatch
from retrieval.types import F32, IdType

OVERLAY_FILE = "overlay.arrow"
Id: TypeAlias = "str | int"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """vector: None for a deletion; source: what the source said then, b"" for nothing, None while not looked up."""

    vector: F32 | None
    attributes: dict[str, Any]
    space_id: str
    source: bytes | None = None


class Overlay:
    """The overlay in folder `work`, brought up to the log in folder `home`; nothing is written before `save`.

    position: the last write that is in it. DamagedData when the file is, FailedPrecondition when the log was trimmed
    behind the overlay.
    """

    def __init__(self, work: Path, home: Path) -> None:
        self._path = work / OVERLAY_FILE
        self._entries: dict[Id, _Entry] = {}
        self._id_type: IdType | None = None
        self.position = 0
        if self._path.exists():
            self._load()
        new = fold(home, after=self.position)
        if new.missing:
            raise FailedPrecondition(
                f"{new.missing} writes of the delta were trimmed from {home} and are not in {self._path}: restore "
                "that file, or build from the source alone with delta = false"
            )
        for id_ in sorted(new.deleted, key=str):
            self._put(id_, _Entry(vector=None, attributes={}, space_id=""))
        for id_, vector, attributes in zip(new.ids, new.vectors, new.attributes, strict=True):
            assert new.header is not None
            self._put(id_, _Entry(vector=vector, attributes=attributes, space_id=new.header.space_id))
        self._id_type = new.id_type or self._id_type
        self.position = new.position

    def _put(self, id_: Id, entry: _Entry) -> None:
        self._entries.pop(id_, None)  # the order is that of the last writes
        self._entries[id_] = entry

    def settle(self, tables: Iterable[pa.Table], id_column: str) -> int:
        """Compare with the source, drop every entry that it overtook, and return how many were dropped."""
        if not self._entries:
            return 0
        wanted: pa.Array | None = None
        said: dict[Id, bytes] = {}
        for table in tables:
            ids = table.column(id_column)
            if wanted is None:
                wanted = pa.array(list(self._entries), ids.type)
            mine = table.filter(pc.is_in(ids, value_set=wanted))
            for row in mine.to_pylist():
                text = json.dumps(row, sort_keys=True, default=str, ensure_ascii=False)
                said.setdefault(row[id_column], hashlib.sha256(text.encode()).digest()[:16])
        before = len(self._entries)
        self._entries = {
            id_: replace(entry, source=said.get(id_, b"")) if entry.source is None else entry
            for id_, entry in self._entries.items()
            if entry.source is None or said.get(id_, entry.source) == entry.source
        }
        return before - len(self._entries)

    def folded(self) -> Folded:
        """What is to be folded into the source; SpaceMismatch when the entries are of several spaces."""
        upserts = {id_: entry for id_, entry in self._entries.items() if entry.vector is not None}
        spaces = list(dict.fromkeys((entry.space_id, len(_vector(entry))) for entry in upserts.values()))
        if len(spaces) > 1:
            named = " and ".join(f"{space} ({d} dimensions)" for space, d in spaces)
            raise SpaceMismatch(f"the delta holds entities of several spaces, {named}: upsert those of the old again")
        header = None
        if spaces:
            assert self._id_type is not None
            header = Header(space_id=spaces[0][0], d=spaces[0][1], id_type=self._id_type)
        vectors = [_vector(entry) for entry in upserts.values()]
        return Folded(
            position=self.position,
            ids=list(upserts),
            vectors=np.stack(vectors) if vectors else np.zeros((0, 0), np.float32),
            attributes=[entry.attributes for entry in upserts.values()],
            deleted=frozenset(id_ for id_, entry in self._entries.items() if entry.vector is None),
            header=header,
        )

    def save(self) -> None:
        """Replace the file; StoreError when the disk refuses."""
        kind = pa.int64() if self._id_type is IdType.INT64 else pa.string()
        entries = list(self._entries.values())
        table = pa.table(
            {
                "id": pa.array(list(self._entries), kind),
                "vector": pa.array([entry.vector for entry in entries], pa.list_(pa.float32())),
                "attributes": pa.array([json.dumps(entry.attributes) for entry in entries], pa.string()),
                "space_id": pa.array([entry.space_id for entry in entries], pa.string()),
                "source": pa.array([entry.source for entry in entries], pa.binary()),
            }
        ).replace_schema_metadata({"position": str(self.position), "id_type": str(self._id_type or "")})
        temporary = temporary_name(self._path)
        with writing(self._path):
            with pa.ipc.new_file(str(temporary), table.schema) as sink:
                sink.write_table(table)
            fsync(temporary)
            os.replace(temporary, self._path)
            fsync(self._path.parent)

    def _load(self) -> None:
        try:
            with pa.memory_map(str(self._path)) as file:
                table = pa.ipc.open_file(file).read_all()
                told = table.schema.metadata or {}
                self.position = int(told[b"position"])
                self._id_type = IdType(told[b"id_type"].decode()) if told[b"id_type"] else None
                for row in table.to_pylist():
                    self._entries[row["id"]] = _Entry(
                        vector=None if row["vector"] is None else np.array(row["vector"], np.float32),
                        attributes=json.loads(row["attributes"]),
                        space_id=row["space_id"],
                        source=row["source"],
                    )
        except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
            raise DamagedData(
                f"{self._path} cannot be read ({error}): restore it, or build from the source alone with delta = false"
            ) from None


def _vector(entry: _Entry) -> F32:
    assert entry.vector is not None
    return entry.vector
