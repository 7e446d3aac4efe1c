"""What the result of a job depends on: columns and bytes of its source, space, settings; and one digest over all.

Reads bytes and schemas only; no embedding is made and no vector decoded. Knows nothing about stores.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from index_builders import tables
from index_builders.plan import library_versions
from index_builders.rebuild.job_file import JobSettings
from index_builders.source import SPACE_KEY
from index_builders.staging import hash_file
from retrieval.errors import InvalidArgument, InvalidData, SpaceMismatch, StoreError
from retrieval.spaces import check_space_id

# what may change without anything having to be built again
_BESIDE_THE_RESULT = {"source", "store", "work", "queries", "canary_texts", "checkpoint", "keep", "gate", "limits"}


def columns(source: Path) -> dict[str, str]:
    """Name and type of every column of a source; InvalidData when its files differ."""
    files = tables.list_tables(source)
    found = {file: {field.name: str(field.type) for field in tables.read_schema(file)} for file in files}
    for file, named in found.items():
        if named != found[files[0]]:
            raise InvalidData(f"{file} has other columns than {files[0]}: the files of one source are one table")
    return found[files[0]]


def space(job: JobSettings, source: Path) -> tuple[str, bool]:
    """The space that is built, and whether the source's own embeddings are of another, so that they are made anew.

    SpaceMismatch when nobody can make them, InvalidArgument when nothing tells the space.
    """
    metadata = tables.read_schema(tables.list_tables(source)[0]).metadata or {}
    stated = metadata[SPACE_KEY].decode() if SPACE_KEY in metadata else None
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


def digest(job: JobSettings, source: Path, space_id: str, position: int) -> str:
    """SHA-256 over all that the result depends on; position: of the delta."""
    said = job.model_dump(mode="json", exclude=_BESIDE_THE_RESULT)
    said["index"].pop("workers")
    files = [file for file in (job.queries, job.canary_texts) if file is not None]
    try:
        hashes = [hash_file(file) for file in [*tables.list_tables(source), *files]]
    except OSError as error:
        raise InvalidData(f"cannot read {error.filename}: {error.strerror}") from error
    content = [said, hashes, space_id, position, library_versions()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checkpoint_space(checkpoint: Path) -> str:
    """From the description alone; whoever loads the weights checks the rest."""
    file = checkpoint / "config.json"
    try:
        return str(json.loads(file.read_bytes())["space_id"])
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{checkpoint} is no checkpoint: {file} cannot be read ({error})") from None
