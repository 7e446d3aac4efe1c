"""A staging folder: which stages of one plan are done, and how a stage becomes done.

A stage writes its folder under a temporary name; the folder is fsynced and renamed; then a record with the SHA-256 of
every file it made is written the same way. A stage is done only when its record is whole and every file is still what
the record says, so nothing half-written is ever trusted. Knows nothing about what stages do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrieval.errors import RetrievalError, StoreError
from retrieval.store.folder import fsync as fsync
from retrieval.store.folder import write_bytes

_CHUNK_BYTES = 1 << 22


class Staging:
    """The folder where one plan is carried out.

    records/<stage>.json   what the stage reported and the hash of its files
    work/<stage>/          what later stages need and servers do not
    generation/            what will be published
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = root / "records"
        self.work = root / "work"
        self.generation = root / "generation"

    def prepare(self) -> None:
        """Make the folders and drop every temporary file of a killed run; StoreError when that is impossible."""
        with writing(self.root):
            for folder in (self.records, self.work, self.generation):
                folder.mkdir(parents=True, exist_ok=True)
            for path in [*self.root.rglob("*.tmp")]:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)  # gone already with the folder it was in

    def done(self, stage: str, folder: Path) -> dict[str, Any] | None:
        """The stage's report if it is done and its files are unchanged; otherwise its remains are removed."""
        record = self._read(stage)
        if record is not None and hash_files(folder) == record["files"]:
            report: dict[str, Any] = record["report"]
            return report
        with writing(folder):
            self._record(stage).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        return None

    def run(self, stage: str, folder: Path, task: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """The report of a stage: the one on record if it is done, else that of `task(temporary folder)`."""
        report = self.done(stage, folder)
        if report is not None:
            return report
        temporary = temporary_name(folder)
        with writing(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            report = task(temporary)
        return self.seal(stage, temporary, folder, report)

    def hashes(self, stage: str) -> dict[str, str]:
        """SHA-256 of every file of a stage that is done, as they were when it ended; by relative POSIX path."""
        record = self._read(stage)
        files: dict[str, str] = {} if record is None else record["files"]
        return files

    def seal(
        self,
        stage: str,
        temporary: Path,
        folder: Path,
        report: dict[str, Any],
        hashes: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Give a finished temporary folder its name and put the stage on record; hashes: of its files, where known."""
        with writing(folder):
            for path in temporary.rglob("*"):
                fsync(path)
            fsync(temporary)
            os.rename(temporary, folder)
            fsync(folder.parent)
            record = {"report": report, "files": hash_files(folder) if hashes is None else dict(hashes)}
            write_atomically(self._record(stage), _with_digest(record))
        return report

    def remove(self) -> None:
        """Remove the folder, and the folder of stagings when it was the last."""
        with writing(self.root):
            shutil.rmtree(self.root, ignore_errors=True)
            if self.root.parent.is_dir() and not any(self.root.parent.iterdir()):
                self.root.parent.rmdir()

    def _record(self, stage: str) -> Path:
        return self.records / f"{stage}.json"

    def _read(self, stage: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._record(stage).read_bytes())
            stated = record.pop("sha256")
        except (OSError, ValueError, AttributeError, KeyError):
            return None
        return record if stated == _digest(record) else None


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an OSError of the enclosed writes into a StoreError that names `target` and, on a full disk, the way out."""
    try:
        yield
    except RetrievalError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        # numpy tells of a short write without an error number
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None}:
            reason += "; free some space there or build into another store, and run the build again to resume it"
        raise StoreError(f"cannot write {target}: {reason}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name, fsync, rename, fsync the folder; after an OSError it is as it was."""
    write_bytes(path, data)


def temporary_name(path: Path) -> Path:
    """Where `path` is written before it has its name."""
    return path.with_name(path.name + ".tmp")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by relative POSIX path; empty when there is no such folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _with_digest(record: dict[str, Any]) -> bytes:
    return json.dumps({**record, "sha256": _digest(record)}, sort_keys=True).encode()
