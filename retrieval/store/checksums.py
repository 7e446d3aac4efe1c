"""SHA-256 of files, and the check of a whole generation against its manifest.

Every byte is hashed before any library opens the file: faiss answers wrongly and hnswlib crashes on a flipped bit, both
in silence. Files are hashed side by side, since hashlib releases the interpreter lock.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retrieval.errors import DamagedData, StoreError
from retrieval.store.manifest import MANIFEST_FILE, FileEntry

_CHUNK_BYTES = 1 << 22


def sha256_file(path: Path) -> FileEntry:
    """Size and SHA-256 of one file; StoreError when it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    return FileEntry(size_bytes=size, sha256=digest.hexdigest())


def sha256_files(root: Path, names: Iterable[str], *, threads: int = 4) -> dict[str, FileEntry]:
    """Entries of the files `names` below `root`, keyed by name."""
    names = sorted(names)
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(names, pool.map(lambda name: sha256_file(root / name), names), strict=True))


def list_files(root: Path) -> list[str]:
    """Every file below `root` but the manifest, as sorted relative POSIX paths; StoreError for an unreadable folder."""

    def unreadable(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    try:
        paths = [Path(folder, name) for folder, _, names in os.walk(root, onerror=unreadable) for name in names]
        found = [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    except OSError as error:
        raise StoreError(f"cannot read {error.filename or root}: {error.strerror}") from error
    return sorted(name for name in found if name != MANIFEST_FILE)


def findings(
    root: Path, expected: Mapping[str, FileEntry], *, threads: int = 4, without: frozenset[str] = frozenset()
) -> dict[str, str]:
    """What is wrong with each file of a generation, empty when all is well: file name -> one phrase.

    without: folders that are passed over.
    """
    expected = {name: entry for name, entry in expected.items() if name.split("/")[0] not in without}
    present = {name for name in list_files(root) if name.split("/")[0] not in without}
    wrong = {name: "missing" for name in expected if name not in present}
    wrong.update(dict.fromkeys(present - set(expected), "not in the manifest"))
    checkable = []
    for name in sorted(present & set(expected)):
        size = (root / name).stat().st_size
        if size != expected[name].size_bytes:
            wrong[name] = f"has {size} bytes, the manifest says {expected[name].size_bytes}"
        else:
            checkable.append(name)

    def differs(name: str) -> str | None:
        try:
            return None if sha256_file(root / name) == expected[name] else "does not match its SHA-256"
        except StoreError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        for name, finding in zip(checkable, pool.map(differs, checkable), strict=True):
            if finding is not None:
                wrong[name] = finding
    return dict(sorted(wrong.items()))


def verify(
    root: Path, expected: Mapping[str, FileEntry], *, threads: int = 4, without: frozenset[str] = frozenset()
) -> None:
    """DamagedData naming every bad file unless all files are exactly what the manifest says.

    without: folders that are passed over, whatever is or is not in them.
    """
    wrong = findings(root, expected, threads=threads, without=without)
    if wrong:
        raise DamagedData(
            f"generation {root.name} is damaged: "
            + "; ".join(f"{name} {finding}" for name, finding in wrong.items())
            + "; roll back or rebuild"
        )
