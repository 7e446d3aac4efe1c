"""The images of entities: a folder of image files, or a table of ids and paths; and reading one of them.

In a folder, the id is the path below the folder without its suffix. In a table, a relative path begins at the table's
folder. Ids are unique. Knows nothing about captions.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from index_builders import tables
from retrieval.errors import InvalidData
from retrieval.types import IdType

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
ID, PATH = "id", "path"


class ImageList(NamedTuple):
    """ids: string or int64 [n]; paths: string [n], below `root` unless absolute; sha256: of ids, paths and sizes."""

    root: Path
    ids: pa.Array
    paths: pa.Array
    id_type: IdType
    sha256: str


def list_images(source: Path) -> ImageList:
    """The images of a folder or of a table with the columns id and path, in order of path or of the table.

    InvalidData when there are none, when an id comes twice, or when the table lacks a column or a value.
    """
    if source.is_dir():
        images = _of_folder(source)
    elif source.suffix in tables.PARQUET | tables.ARROW and source.is_file():
        images = _of_table(source)
    else:
        raise InvalidData(f"{source} is neither a folder of images nor a .parquet or .arrow table of id and path")
    if len(images.ids) == 0:
        raise InvalidData(f"{source} has no images: give image files ({', '.join(sorted(SUFFIXES))}) or rows")
    counts = pc.value_counts(images.ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise InvalidData(f"{source} has the id {twice.field('values')[0].as_py()!r} more than once: keep one image")
    return images


def read_image(path: Path) -> Any:
    """The file as an RGB Pillow image the right way up; None when it cannot be read as one."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged metadata beside sound pixels
            with Image.open(path) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except MemoryError:
        raise
    except Exception:  # decoders fail on damaged bytes with errors of every kind
        return None


def _of_folder(source: Path) -> ImageList:
    found = sorted(
        file.relative_to(source).as_posix()
        for file in source.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    ids = [path[: -len(Path(path).suffix)] for path in found]
    return _listed(source, pa.array(ids, pa.string()), pa.array(found, pa.string()), IdType.STRING)


def _of_table(source: Path) -> ImageList:
    schema = tables.read_schema(source)
    for name in (ID, PATH):
        if schema.names.count(name) != 1:
            raise InvalidData(f"{source} has no column {name!r}; it has: {', '.join(schema.names) or 'none'}")
    kind = tables.id_type(schema.field(ID).type, source, ID)
    if tables.id_type(schema.field(PATH).type, source, PATH) is not IdType.STRING:
        raise InvalidData(f"column {PATH!r} of {source} has type {schema.field(PATH).type}; paths are strings")
    ids, paths = [], []
    for batch in tables.read_batches(source, [ID, PATH], 65_536):
        ids.append(tables.plain_ids(batch.column(ID), kind, source))
        paths.append(tables.plain(batch.column(PATH)).cast(pa.string()))
    of_kind = pa.string() if kind is IdType.STRING else pa.int64()
    all_ids = pa.concat_arrays(ids) if ids else pa.array([], of_kind)
    all_paths = pa.concat_arrays(paths) if paths else pa.array([], pa.string())
    for name, column in ((ID, all_ids), (PATH, all_paths)):
        if column.null_count:
            raise InvalidData(f"column {name!r} of {source} is null in {column.null_count:,} rows: leave them out")
    return _listed(source.parent, all_ids, all_paths, kind)


def _listed(root: Path, ids: pa.Array, paths: pa.Array, kind: IdType) -> ImageList:
    digest = hashlib.sha256()
    for entity, path in _pairs(ids, paths):
        try:
            size = os.stat(root / path).st_size
        except (OSError, ValueError):
            size = -1  # counted as unreadable later
        digest.update(f"{entity!r} {path!r} {size};".encode("utf-8", "surrogatepass"))
    return ImageList(root, ids, paths, kind, digest.hexdigest())


def _pairs(ids: pa.Array, paths: pa.Array) -> Iterable[tuple[Any, str]]:
    for start in range(0, len(ids), 65_536):
        yield from zip(ids[start : start + 65_536].to_pylist(), paths[start : start + 65_536].to_pylist(), strict=True)
