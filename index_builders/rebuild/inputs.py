"""What the result of a job depends on: columns and bytes of its source, space, settings; and one digest over all.

Reads bytes and schemas only; no embedding is made and no vector decoded. Knows nothing about stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from index_builders import tables
from index_builders.plan import library_versions
from index_builders.rebuild.job_file import JobSettings
from index_builders.rebuild.state import dimension
from index_builders.source import SPACE_KEY
from index_builders.staging import hash_file
from retrieval.errors import InvalidArgument, InvalidData, SpaceMismatch, StoreError
from retrieval.spaces import check_space_id
from retrieval.store import Manifest

# what may change without anything having to be built again
_BESIDE_THE_RESULT = {"source", "store", "work", "queries", "canary_texts", "checkpoint", "keep", "gate", "limits"}


def columns(source: Path) -> dict[str, str]:
    """Name and type of every column of a source; InvalidData when its files differ."""
    return columns_of({str(file): tables.read_schema(file) for file in tables.list_tables(source)})


def columns_of(schemas: Mapping[str, pa.Schema]) -> dict[str, str]:
    """`columns` by the schemas of the files of a source."""
    found = {file: {field.name: str(field.type) for field in schema} for file, schema in schemas.items()}
    first = next(iter(found))
    for file, named in found.items():
        if named != found[first]:
            raise InvalidData(f"{file} has other columns than {first}: the files of one source are one table")
    return found[first]


def metadata(source: Path) -> Mapping[bytes, bytes]:
    """What the first file of a source says of itself."""
    return tables.read_schema(tables.list_tables(source)[0]).metadata or {}


def space(job: JobSettings, said: Mapping[bytes, bytes]) -> tuple[str, bool]:
    """The space that is built, and whether the source's own embeddings are of another, so that they are made anew.

    said: the metadata of the source. SpaceMismatch when nobody can make them, InvalidArgument when nothing tells the
    space.
    """
    stated = said[SPACE_KEY].decode() if SPACE_KEY in said else None
    makes = None if job.checkpoint is None else _checkpoint_space(job.checkpoint)
    if makes is not None and job.space_id not in {None, makes}:
        raise SpaceMismatch(f"checkpoint {job.checkpoint} makes space {makes}, the job wants {job.space_id}")
    wanted = makes or job.space_id or stated
    if wanted is None:
        raise InvalidArgument(f"{job.source} does not say of which space its embeddings are: name it with space_id")
    if stated not in {None, wanted} and makes is None:
        raise SpaceMismatch(
            f"{job.source} holds embeddings of space {stated}, the job wants {wanted}: leave space_id out, or name the "
            "checkpoint that embeds again"
        )
    return check_space_id(wanted), stated not in {None, wanted}


def check_dimension(job: JobSettings, named: Mapping[str, str], space_id: str, live: Manifest) -> None:
    """SpaceMismatch when the source declares another dimension than the live generation has for the same space."""
    d = dimension(named.get(job.embedding_column, ""))
    if d is not None and space_id == live.space_id and d != live.d:
        raise SpaceMismatch(
            f"column {job.embedding_column!r} of {job.source} has {d} dimensions, the live generation {live.id} of the "
            f"same space {space_id} has {live.d}: the source is broken, or its embeddings are of another space, which "
            "needs a space_id of its own"
        )


def source_hashes(source: Path) -> list[str]:
    """SHA-256 of every file of a source, in the order of their names; InvalidData when one cannot be read."""
    return _hashes(tables.list_tables(source))


def digest(job: JobSettings, hashes: list[str], space_id: str, position: int) -> str:
    """SHA-256 over all that the result depends on. hashes: of the source's files; position: of the delta."""
    said = job.model_dump(mode="json", exclude=_BESIDE_THE_RESULT)
    said["index"].pop("workers")
    others = _hashes([file for file in (job.queries, job.canary_texts) if file is not None])
    content = [said, [*hashes, *others], space_id, position, library_versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hashes(files: list[Path]) -> list[str]:
    try:
        return [hash_file(file) for file in files]
    except OSError as error:
        raise InvalidData(f"cannot read {error.filename}: {error.strerror}") from error


def _checkpoint_space(checkpoint: Path) -> str:
    """From the description alone; whoever loads the weights checks the rest."""
    file = checkpoint / "config.json"
    try:
        return str(json.loads(file.read_bytes())["space_id"])
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{checkpoint} is no checkpoint: {file} cannot be read ({error})") from None
