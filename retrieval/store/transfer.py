"""Moving the files of one generation between a place and a folder: in parallel, checked, and resumable after a kill.

A file that is there already and is what the manifest says is not moved again. What arrives is hashed on its way, and
has its name only when the hash is right. Knows nothing about pointers or which generation is live.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from retrieval.errors import DamagedData, NoGeneration, StoreError
from retrieval.store.folder import UNFINISHED, fsync, writing
from retrieval.store.manifest import FileEntry
from retrieval.store.place import Place, RemoteSettings

Progress: TypeAlias = Callable[[str, int, int], None]  # (stage, done, total)
PART = ".part" + UNFINISHED
_HASH_CHUNK_BYTES = 1 << 22


def upload(
    place: Place,
    source: Path,
    prefix: str,
    files: Mapping[str, FileEntry],
    settings: RemoteSettings,
    progress: Progress | None = None,
) -> int:
    """Put the files of `source` below `prefix` and read every one back; returns how many had to be sent.

    A file found there with the right bytes is not sent. Raises DamagedData when what is read back twice is not what was
    sent, StoreError when the place fails.
    """
    there = place.sizes(prefix)

    def send(name: str) -> bool:
        entry, target = files[name], f"{prefix}/{name}"
        if there.get(name) == entry.size_bytes and remote_sha256(place, target, entry, settings) == entry.sha256:
            return False
        for _ in range(2):
            place.put(source / name, target)
            if remote_sha256(place, target, entry, settings) == entry.sha256:
                return True
        raise DamagedData(
            f"{place.where}/{target} is other than what was sent, twice: check the storage, and run again"
        )

    return sum(_side_by_side(send, files, settings.threads, "upload", progress))


def download(
    place: Place,
    prefix: str,
    target: Path,
    files: Mapping[str, FileEntry],
    settings: RemoteSettings,
    progress: Progress | None = None,
) -> int:
    """Bring the files below `prefix` into `target`; returns the bytes that had to be read.

    Goes on where a killed run stopped. Raises DamagedData when a file arrives twice other than the manifest says,
    NoGeneration when one has vanished, StoreError when the place or the disk fails.
    """
    missing = sum(entry.size_bytes - _present(target / name, entry) for name, entry in files.items())
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target).free
    if missing > free:
        raise StoreError(
            f"cannot write {target}: {missing / 2**20:.1f} MiB are to come and {free / 2**20:.1f} MiB are free; free "
            "some space there and run it again"
        )

    def bring(name: str) -> int:
        return _bring(place, f"{prefix}/{name}", target / name, files[name], settings)

    return sum(_side_by_side(bring, files, settings.threads, "download", progress))


def findings(
    place: Place,
    prefix: str,
    files: Mapping[str, FileEntry],
    sizes: Mapping[str, int],
    settings: RemoteSettings,
    progress: Progress | None = None,
) -> dict[str, str]:
    """What is wrong with each file below `prefix`, read back whole; empty when all is well: file name -> one phrase.

    sizes: what lies there, as `Place.sizes` tells it.
    """
    wrong = {name: "missing" for name in files if name not in sizes}
    wrong.update(dict.fromkeys(set(sizes) - set(files), "not in the manifest"))
    for name in sorted(set(files) & set(sizes)):
        if sizes[name] != files[name].size_bytes:
            wrong[name] = f"has {sizes[name]} bytes, the manifest says {files[name].size_bytes}"
    checkable = sorted(set(files) - set(wrong))

    def differs(name: str) -> bool:
        return remote_sha256(place, f"{prefix}/{name}", files[name], settings) != files[name].sha256

    bad = _side_by_side(differs, checkable, settings.threads, "read back", progress)
    wrong.update({name: "does not match its SHA-256" for name, is_bad in zip(checkable, bad, strict=True) if is_bad})
    return dict(sorted(wrong.items()))


def remote_sha256(place: Place, name: str, entry: FileEntry, settings: RemoteSettings) -> str:
    """SHA-256 in hex of a file at a place, read in ranges; "" when it is missing or of another size."""
    digest, size = hashlib.sha256(), 0
    if entry.size_bytes == 0:
        return digest.hexdigest()
    try:
        while chunk := place.read_range(name, size, min(size + settings.chunk_bytes, entry.size_bytes + 1)):
            digest.update(chunk)
            size += len(chunk)
            if size >= entry.size_bytes:
                break
    except FileNotFoundError:
        return ""
    return digest.hexdigest() if size == entry.size_bytes else ""


def _bring(place: Place, name: str, path: Path, entry: FileEntry, settings: RemoteSettings) -> int:
    if path.is_file() and _sha256(path)[0] == entry.sha256:
        return 0
    part = path.with_name(path.name + PART)
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    read = 0
    for fresh in (False, True):
        if fresh:
            with writing(part):
                part.unlink(missing_ok=True)
        found, got = _receive(place, name, part, entry, settings)
        read += got
        if found == entry.sha256:
            with writing(path):
                fsync(part)
                os.replace(part, path)
            return read
    with writing(part):
        part.unlink(missing_ok=True)
    raise DamagedData(
        f"{place.where}/{name} arrives other than its manifest says, twice: roll back to another generation or build "
        "it again"
    )


def _receive(place: Place, name: str, part: Path, entry: FileEntry, settings: RemoteSettings) -> tuple[str, int]:
    """SHA-256 of the file after its missing tail was read, and the bytes read for it."""
    read = 0
    with writing(part):
        digest = hashlib.sha256()
        size = _feed(digest, part)
        if size > entry.size_bytes:
            part.unlink()
            digest, size = hashlib.sha256(), 0
        with part.open("ab") as file:
            while size < entry.size_bytes:
                stop = min(size + settings.chunk_bytes, entry.size_bytes)
                try:
                    chunk = place.read_range(name, size, stop)
                except FileNotFoundError:
                    raise NoGeneration(
                        f"{place.where}/{name} has vanished while it was fetched: fetch the generation that is live now"
                    ) from None
                if not chunk:
                    break
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
                read += len(chunk)
    return digest.hexdigest(), read


def _side_by_side(
    task: Callable[[str], int], names: Iterable[str], threads: int, stage: str, progress: Progress | None
) -> list[int]:
    """Results of the tasks; the first failure stops those that have not begun."""
    names = list(names)
    done = 0
    out: list[int] = []
    with ThreadPoolExecutor(threads, thread_name_prefix=stage) as pool:
        waiting: list[Future[int]] = [pool.submit(task, name) for name in names]
        try:
            for future in waiting:
                out.append(future.result())
                done += 1
                if progress is not None:
                    progress(stage, done, len(names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return out


def _present(path: Path, entry: FileEntry) -> int:
    for found in (path, path.with_name(path.name + PART)):
        if found.is_file():
            return min(found.stat().st_size, entry.size_bytes)
    return 0


def _sha256(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = _feed(digest, path)
    return digest.hexdigest(), size


def _feed(digest: hashlib._Hash, path: Path) -> int:
    size = 0
    if path.is_file():
        with path.open("rb") as file:
            while chunk := file.read(_HASH_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    return size
