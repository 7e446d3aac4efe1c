"""The files of a source, on this machine: those of a folder as they are, those of a URL copied into the job's folder.

A copy is kept under a name made of what the storage says of the file (name, size, version), so that an unchanged file
is not fetched again, and a half-fetched one has a temporary name. Knows nothing about what is in the files.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from index_builders import tables
from index_builders.staging import fsync, temporary_name, writing
from retrieval.errors import InvalidData, MissingDependency, RetrievalError
from retrieval.store.place import is_url


def local_files(source: str, work: Path) -> Path:
    """A local file or folder with the source's files; InvalidData when there are none or they cannot be read."""
    if not is_url(source):
        tables.list_tables(Path(source))
        return Path(source)
    with _reading(source):
        return _fetch(source, work / "source")


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a file of a source says of itself: its name, schema and rows."""

    name: str
    schema: pa.Schema
    rows: int


def heads(source: str) -> list[Head]:
    """The heads of a source's files, in order, read where they are; InvalidData for none or a broken one."""
    if not is_url(source):
        return [
            Head(name=str(file), schema=tables.read_schema(file), rows=tables.count_rows(file))
            for file in tables.list_tables(Path(source))
        ]
    with _reading(source):
        system, names = _names(source)
        return [_head(system, name) for name in names]


def _head(system: Any, name: str) -> Head:
    with system.open(name, "rb") as file:
        if Path(name).suffix in tables.PARQUET:
            told = pq.ParquetFile(file)
            return Head(name=name, schema=told.schema_arrow, rows=told.metadata.num_rows)
        reader = pa.ipc.open_file(file)
        rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
        return Head(name=name, schema=reader.schema, rows=rows)


def _names(source: str) -> tuple[Any, list[str]]:
    system, path = fsspec.core.url_to_fs(source)
    endings = tables.PARQUET | tables.ARROW
    if system.isfile(path):
        names = [path]
    else:
        names = sorted(
            name
            for name in system.find(path)
            if Path(name).suffix in endings and not Path(name).name.startswith((".", "_"))
        )
    if not names:
        raise InvalidData(f"{source} does not exist or holds no .parquet or .arrow file")
    return system, names


@contextmanager
def _reading(source: str) -> Iterator[None]:
    try:
        yield
    except RetrievalError:
        raise
    except ImportError as error:
        raise MissingDependency(f"{source} needs a package that is not installed: {error}") from None
    except Exception as error:  # every backend of fsspec has errors of its own
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidData(f"cannot read {source}: {first}") from error


def _fetch(source: str, folder: Path) -> Path:
    system, names = _names(source)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = [_get(system, name, folder, number) for number, name in enumerate(names)]
    with writing(folder):
        for path_there in folder.iterdir():
            if path_there not in wanted:
                path_there.unlink()
    return folder


def _get(system: Any, name: str, folder: Path, number: int) -> Path:
    info = system.info(name)
    told = [name, info.get("size"), *(str(info.get(key)) for key in ("ETag", "etag", "mtime", "LastModified"))]
    version = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    # the number keeps the order of the names
    target = folder / f"{number:05d}-{version}{Path(name).suffix}"
    if not target.exists():
        temporary = temporary_name(target)
        with system.open(name, "rb") as there, writing(target), temporary.open("wb") as here:
            shutil.copyfileobj(there, here, 1 << 22)
        if info.get("size") not in {None, temporary.stat().st_size}:
            raise InvalidData(f"{name} has {info['size']} bytes and {temporary.stat().st_size} arrived: run it again")
        with writing(target):
            fsync(temporary)
            os.replace(temporary, target)
    return target
