"""A store at a URL and its copy in a local folder: builds and servers work on the copy, the URL is what they share.

A generation is sent file by file, every file read back, the manifest last. One that is fetched is collected under
LOCAL/<entity_type>/fetching/<id>, every file checked, and admitted to the local store by one rename. So neither side
ever shows half a generation, and a killed transfer goes on where it stopped. Knows nothing about index kinds.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.errors import DamagedData, NoGeneration, StoreError
from retrieval.store import checksums, transfer
from retrieval.store.folder import write_bytes, writing
from retrieval.store.local import FETCHING, Store
from retrieval.store.manifest import MANIFEST_FILE, Manifest
from retrieval.store.place import RemoteSettings
from retrieval.store.remote import RemoteStore, generation_folder


class Mirror(RemoteStore):
    """The store at `url`, mirrored in the folder `local`, which is a whole local store of its own (made if need be).

    store: the local one.
    """

    def __init__(
        self,
        url: str,
        local: Path,
        *,
        settings: RemoteSettings | None = None,
        progress: transfer.Progress | None = None,
    ) -> None:
        super().__init__(url, settings=settings, progress=progress)
        self.store = Store(local, create=True)

    def push(self, entity_type: str, generation: str) -> int:
        """Copy a generation of the local store to the URL; returns how many of its files had to be sent.

        The local files are checked first, every sent file is read back, the manifest goes last; CURRENT stays. Run
        again after a kill it sends what is missing. Raises DamagedData when the local generation is damaged or the
        storage keeps other bytes than were sent, StoreError when another generation has this id there.
        """
        opened = self.store.open(entity_type, generation)
        prefix, data = generation_folder(entity_type, generation), (opened.path / MANIFEST_FILE).read_bytes()
        held = self.place.read(f"{prefix}/{MANIFEST_FILE}")
        if held is not None and held.data != data:
            if _damaged(held.data):
                held = None  # sent again
            else:
                raise StoreError(
                    f"{self.url}/{prefix} holds another manifest than the local one: build it again under a new id"
                )
        sent = transfer.upload(self.place, opened.path, prefix, opened.manifest.files, self.settings, self.progress)
        if held is None:
            self.place.put(opened.path / MANIFEST_FILE, f"{prefix}/{MANIFEST_FILE}")
            arrived = self.place.read(f"{prefix}/{MANIFEST_FILE}")
            if arrived is None or arrived.data != data:
                raise DamagedData(f"{self.url}/{prefix}/{MANIFEST_FILE} is other than what was sent: run it again")
            sent += 1
        return sent

    def fetch(self, entity_type: str, generation: str | None = None) -> str:
        """Bring a generation (the live one if None) into the local store, every byte checked; returns its id.

        One that is there whole is not read again; one that is there damaged is replaced. The local CURRENT stays.
        Raises NoGeneration when it is not at the URL or vanishes meanwhile, DamagedData when it arrives damaged twice.
        """
        generation = generation or self.current(entity_type)
        home = self.store.prepare(entity_type)
        with _alone(home / FETCHING, generation):
            if self._have(entity_type, generation):
                return generation
            prefix = generation_folder(entity_type, generation)
            manifest, data = self.read_manifest(entity_type, generation)
            folder = home / FETCHING / generation
            transfer.download(self.place, prefix, folder, manifest.files, self.settings, self.progress)
            with writing(folder):
                for stray in set(checksums.list_files(folder)) - set(manifest.files):
                    (folder / stray).unlink()
                write_bytes(folder / MANIFEST_FILE, data)  # its very bytes: an older version's differ
            self.store.admit(folder, entity_type, generation)
        return generation

    def follow(self, entity_type: str) -> str:
        """Fetch what is live at the URL and make it live in the local store; returns its id."""
        generation = self.fetch(entity_type)
        self.store.publish(entity_type, generation)
        return generation

    def _have(self, entity_type: str, generation: str) -> bool:
        """Whether the local store has the generation whole; a damaged one is removed, so that it can come anew."""
        try:
            self.store.open(entity_type, generation)
        except NoGeneration:
            return False
        except (DamagedData, StoreError):
            self.store.remove(entity_type, generation, even_live=True)
            return False
        return True


@contextmanager
def _alone(folder: Path, generation: str) -> Iterator[None]:
    """One fetch of a generation at a time on this machine; a second waits and then finds it there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / f"{generation}.lock"
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
            shutil.rmtree(folder / generation, ignore_errors=True)
            lock.unlink(missing_ok=True)


def _damaged(manifest: bytes) -> bool:
    try:
        Manifest.from_bytes(manifest, where="the manifest at the URL")
    except DamagedData:
        return True
    return False
