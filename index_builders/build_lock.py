"""One build of an entity type at a time: a lock that the system lets go of when its process ends, however it ends.

Knows nothing about builds.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index_builders.staging import writing
from retrieval.errors import FailedPrecondition
from retrieval.store.local import BUILD_LOCK


@contextmanager
def build_lock(home: Path, entity_type: str) -> Iterator[None]:
    """Hold the build lock of an entity type in folder `home`; FailedPrecondition while another process does."""
    with writing(home / BUILD_LOCK), (home / BUILD_LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FailedPrecondition(
                f"another build of {entity_type!r} is at work in {home.parent} (process {owner}): wait until it ends, "
                "or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
