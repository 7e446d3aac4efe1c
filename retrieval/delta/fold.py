"""Folding: what the log says in the end, the latest write of each entity.

A rebuild folds what came since its last run into what it keeps, and says in its manifest up to which write; a server
applies only later ones beside that generation, so that nothing that arrives meanwhile is lost. Knows nothing about
sources or shards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.delta.reader import LogReader
from retrieval.delta.records import Header, Upserts
from retrieval.errors import SpaceMismatch
from retrieval.types import F32, IdType


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The latest of every entity written up to `position`.

    ids [n] with vectors float32 [n, d] as given and attributes; deleted: ids that are to be in no shard. Rows of a
    source with an id of either are left out. header: of the vectors, None where nothing was upserted; id_type: of the
    ids, None where nothing was written; missing: writes that were asked for and had been trimmed.
    """

    position: int
    ids: list[str | int]
    vectors: F32
    attributes: list[dict[str, Any]]
    deleted: frozenset[str | int]
    header: Header | None
    id_type: IdType | None = None
    missing: int = 0


def fold(home: Path, upto: int | None = None, *, after: int = 0) -> Folded:
    """Read the log in folder `home` (STORE/<entity type>/delta) behind write `after`, to write `upto` or to its end.

    SpaceMismatch when upserts that still count are of several spaces: they cannot stand in one generation. DamagedData
    when the log is. A folder that does not exist is a log without writes.
    """
    latest: dict[str | int, tuple[F32, dict[str, Any], Header] | None] = {}
    reader = LogReader(home, after=after)
    position, id_type = after, None
    for entry in reader.read():
        if upto is not None and entry.last > upto:
            break
        position, id_type = entry.last, entry.header.id_type
        if isinstance(entry.write, Upserts):
            for id_, vector, attributes in zip(
                entry.write.ids, entry.write.vectors, entry.write.attributes, strict=True
            ):
                latest.pop(id_, None)  # the order is that of the last writes
                latest[id_] = (vector, attributes, entry.header)
        else:
            for id_ in entry.write.ids:
                latest[id_] = None
    kept = {id_: found for id_, found in latest.items() if found is not None}
    headers = list(dict.fromkeys(header for _, _, header in kept.values()))
    if len(headers) > 1:
        named = " and ".join(f"{header.space_id} ({header.d} dimensions)" for header in headers)
        raise SpaceMismatch(
            f"the delta in {home} holds entities of several spaces, {named}: upsert those of the old space again"
        )
    return Folded(
        position=position,
        ids=list(kept),
        vectors=np.stack([vector for vector, _, _ in kept.values()]) if kept else np.zeros((0, 0), np.float32),
        attributes=[attributes for _, attributes, _ in kept.values()],
        deleted=frozenset(id_ for id_, found in latest.items() if found is None),
        header=headers[0] if headers else None,
        id_type=id_type,
        missing=reader.missing,
    )
