"""Where a server's generations come from: a local store as it is, or one at a URL through a local copy.

Of a URL only the pointer is read again and again; a generation is fetched whole, checked, and opened from the copy. A
server moves no pointer of the store: it is one reader of many, and a fault of its own machine must not undo what the
publisher's gate has let through for all. Knows nothing about what is served.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.errors import DamagedData, InvalidParams, RetrievalError, StoreError
from retrieval.serving.config import ServingSettings
from retrieval.store import Store
from retrieval.store.mirror import Mirror
from retrieval.store.place import is_url

_log = logging.getLogger(__name__)
_LISTED_S = 300.0  # a list of a bucket costs more than the pointer of a type that is known


class Origin:
    """The store of the settings. Raises InvalidParams for a URL without a folder, StoreError when it is no store."""

    def __init__(self, settings: ServingSettings) -> None:
        self._mirror: Mirror | None = None
        self._listed, self._listed_until = list[str](), 0.0
        if is_url(settings.store):
            if settings.follow.cache is None:
                raise InvalidParams(
                    f"the store {settings.store} is at a URL, which needs a local folder to serve from: give "
                    "--set follow.cache=FOLDER"
                )
            self._mirror = Mirror(str(settings.store), settings.follow.cache)
            self.store = self._mirror.store
        else:
            self.store = Store(Path(settings.store))

    @property
    def published(self) -> Store | Mirror:
        """Where CURRENT and the manifests are read."""
        return self.store if self._mirror is None else self._mirror

    def entity_types(self) -> list[str]:
        """Entity types that the store has; those of the local copy when the URL cannot be reached."""
        if self._mirror is None:
            return self.store.entity_types()
        if self._listed and time.monotonic() < self._listed_until:
            return self._listed
        try:
            self._listed = self._mirror.entity_types()
            self._listed_until = time.monotonic() + _LISTED_S
        except StoreError:
            if not self.store.entity_types():
                raise
            return self.store.entity_types()
        return self._listed

    def current(self, entity_type: str) -> str:
        """The live generation; NoGeneration when there is none, StoreError when that cannot be known."""
        return self.published.current(entity_type)

    def bring(self, entity_type: str, generation: str) -> None:
        """Have the generation in the local store, every byte checked when it came from a URL.

        Raises StoreError when the URL cannot be reached, NoGeneration when it has no such generation (any more) and
        DamagedData when it arrives damaged.
        """
        if self._mirror is not None:
            self._mirror.fetch(entity_type, generation)

    def live(self, entity_type: str) -> str:
        """The generation to start with, brought here: the live one, or the last of the copy while the URL is away."""
        if self._mirror is None:
            return self.store.current(entity_type)
        try:
            return self._mirror.follow(entity_type)
        except (StoreError, DamagedData) as error:
            with contextlib.suppress(RetrievalError):
                found = self.store.current(entity_type)
                _log.warning("starting with %s generation %s of the local copy, because: %s", entity_type, found, error)
                return found
            raise

    def settled(self, entity_type: str, served: str, previous: str | None) -> None:
        """Note in the local copy what is served now, and remove there what is neither served nor previous."""
        if self._mirror is None:
            return
        with contextlib.suppress(RetrievalError):  # another worker does the same at the same time
            self.store.publish(entity_type, served)
            kept = {served, previous, *self.store.generations(entity_type)[-2:]}
            for name in self.store.generations(entity_type):
                if name not in kept:
                    self.store.remove(entity_type, name)

    @contextmanager
    def alone(self, entity_type: str) -> Iterator[None]:
        """One server of this machine at a time loads from this store, so that workers do not all stall together."""
        folder = os.open(self.store.root / entity_type / "generations", os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: they load side by side
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
