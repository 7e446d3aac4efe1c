"""A place that is a folder: conditional writes under a lock on the folder, every write complete before it has its name.

The lock is `flock` on the folder itself: the system lets go of it when its process dies. It holds for one machine and,
from NFS version 4 on, for all that mount the folder. Knows nothing about generations.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval.errors import StoreError
from retrieval.store.place import Held

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
UNFINISHED = ".tmp"  # how the name of a file ends that is being written


class FolderPlace:
    """Files below a folder, as a `Place`."""

    local = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def read(self, name: str) -> Held | None:
        """See `Place`."""
        path = self.root / name
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        return _held(data)

    def create(self, name: str, data: bytes) -> Held | None:
        """See `Place`."""
        return self._swap(name, data, None)

    def replace(self, name: str, data: bytes, expected: Held) -> Held | None:
        """See `Place`."""
        return self._swap(name, data, expected)

    def _swap(self, name: str, data: bytes, expected: Held | None) -> Held | None:
        path = self.root / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                found = self.read(name)
                if (found and found.version) != (expected and expected.version):
                    return None
                # of writers that were killed: one that lives would hold the lock
                for leftover in path.parent.glob(f"{glob.escape(path.name)}.*{UNFINISHED}"):
                    leftover.unlink(missing_ok=True)
                write_bytes(path, data)
        return _held(data)

    def put(self, source: Path, name: str) -> None:
        """See `Place`."""
        path = self.root / name
        temporary = _temporary(path)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, temporary)
                fsync(temporary)
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            fsync(path.parent)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """See `Place`."""
        path = self.root / name
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    def sizes(self, folder: str) -> dict[str, int]:
        """See `Place`."""
        top = self.root / folder
        try:
            files = [path for path in top.rglob("*") if path.is_file() and not path.name.endswith(UNFINISHED)]
            return {path.relative_to(top).as_posix(): path.stat().st_size for path in sorted(files)}
        except OSError as error:
            raise StoreError(f"cannot list {top}: {error.strerror}") from error

    def children(self, folder: str) -> list[str]:
        """See `Place`."""
        top = self.root / folder
        try:
            return sorted(path.name for path in top.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"cannot list {top}: {error.strerror}") from error

    def delete(self, names: Sequence[str]) -> None:
        """See `Place`; folders that become empty go too."""
        for name in names:
            path = self.root / name
            try:
                path.unlink(missing_ok=True)
                parent = path.parent
                while parent != self.root and not any(parent.iterdir()):
                    parent.rmdir()
                    parent = parent.parent
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"cannot remove {path}: {error.strerror}") from error

    def abandoned(self, folder: str, *, remove: bool) -> int:
        """See `Place`."""
        found = [path for path in (self.root / folder).rglob("*" + UNFINISHED) if path.is_file()]
        if remove:
            self.delete([path.relative_to(self.root).as_posix() for path in found])
        return len(found)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a small file atomically and durably; after an OSError it is as it was before.

    A second name keeps what is replaced until the folder is known to be on disk, so that even a failing last fsync can
    be undone by one rename.
    """
    temporary, before = _temporary(path), _temporary(path, "before")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.link(path, before)
        os.replace(temporary, path)
        try:
            fsync(path.parent)
        except OSError:
            if before.exists():
                os.replace(before, path)
            else:
                path.unlink()
            raise
    finally:
        for leftover in (temporary, before):
            with suppress(OSError):
                leftover.unlink()


def fsync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def reading(source: Path) -> Iterator[None]:
    """Turn an OSError of the enclosed reads into a StoreError that names `source`."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error.strerror or error}") from error


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError of the enclosed writes into a StoreError that names `target` and, on a full disk, the way out."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write {target}: {reason(error)}") from error


def reason(error: OSError) -> str:
    """What an OSError says, with the way out where the disk is full or the user may not write."""
    text = error.strerror or str(error)
    if error.errno in _FULL:
        return f"{text}; free some space there and run it again, which goes on where it stopped"
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"{text}; let this user write there, or name another place"
    return text


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _temporary(path: Path, kind: str = "new") -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.{kind}{UNFINISHED}")


def _held(data: bytes) -> Held:
    return Held(data=data, version=hashlib.sha256(data).hexdigest())
