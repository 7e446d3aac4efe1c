"""The pointer CURRENT: which generation of an entity type is live, read and moved, in a folder or at a URL.

It moves by a conditional write, so that of two jobs that saw the same pointer one moves it and the other is told.
"""

from __future__ import annotations

import re
from types import EllipsisType
from typing import Protocol

from retrieval.errors import FailedPrecondition, StoreError
from retrieval.store.place import Held, Place

POINTER_FILE = "CURRENT"
GENERATION_NAME = re.compile(r"[0-9]{6}-[0-9a-f]{8}")
_TRIES = 5


class Checked(Protocol):
    """What a pointer asks right before it moves; a `Lease` is one."""

    def check(self) -> None:
        """Raise FailedPrecondition unless the holder may publish."""
        ...


def read_pointer(place: Place) -> tuple[str | None, Held | None]:
    """The live generation, None where nothing is live, and the version of the pointer.

    StoreError when the pointer names no generation.
    """
    held = place.read(POINTER_FILE)
    if held is None:
        return None, None
    name = held.data.decode(errors="replace").strip()
    if not GENERATION_NAME.fullmatch(name):
        raise StoreError(
            f"{place.where}/{POINTER_FILE} does not name a generation: {name[:80]!r}; publish one to mend it"
        )
    return name, held


def move_pointer(
    place: Place,
    generation: str,
    *,
    expected: str | EllipsisType | None = ...,
    lease: Checked | None = None,
) -> None:
    """Point CURRENT at `generation`, atomically and durably.

    expected: what has to be live for the move to happen (None: nothing); left out, whatever is live is replaced.
    lease: asked right before the write. Raises FailedPrecondition when another generation is live than expected or the
    lease is lost, StoreError when the place cannot be written; the pointer is then as it was.
    """
    data = (generation + "\n").encode()
    for _ in range(_TRIES):
        held = place.read(POINTER_FILE)
        if expected is not ...:
            live, held = read_pointer(place)
            if live != expected:
                raise FailedPrecondition(
                    f"{place.where}/{POINTER_FILE} names {live or 'nothing'}, not {expected or 'nothing'} as when this "
                    f"job began, so {generation} is not published: run the job again"
                )
        if lease is not None:
            lease.check()
        moved = place.create(POINTER_FILE, data) if held is None else place.replace(POINTER_FILE, data, held)
        if moved is not None:
            return
        # refused: by another writer, or because an earlier try of this very write arrived and its answer was lost
        found = place.read(POINTER_FILE)
        if found is not None and found.data == data:
            return
    raise FailedPrecondition(f"{place.where}/{POINTER_FILE} is moved by other jobs again and again; try again later")
