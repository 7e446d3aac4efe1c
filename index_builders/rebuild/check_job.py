"""What `--check` looks at beside the job's file: the metadata of the source, and what the last run saw of it.

Reads schemas and row counts only, at a URL as well; nothing is fetched, embedded or written. Knows nothing about
builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from index_builders.rebuild import inputs
from index_builders.rebuild.fetch import heads
from index_builders.rebuild.job_file import JobSettings
from index_builders.rebuild.state import check_columns, read_state
from retrieval.errors import InvalidData, RetrievalError
from retrieval.store import Manifest, Store
from retrieval.store.place import is_url


@dataclass(frozen=True, kw_only=True)
class Checked:
    """rows: of the source; columns: type of each, in words; space_id: of the embeddings that would be built."""

    rows: int
    columns: dict[str, str]
    space_id: str


def check_job(job: JobSettings, *, new_columns: bool = False) -> Checked:
    """Read the source's metadata as `rebuild` would; raises what it would raise for a source that cannot be used."""
    found = heads(job.source)
    columns = inputs.columns_of({head.name: head.schema for head in found})
    if not new_columns:
        check_columns(read_state(job.work_folder()).columns, columns, job.source, job.embedding_column)
    if job.id_column not in columns:
        raise InvalidData(f"{job.source} has no column {job.id_column!r}; it has: {', '.join(columns) or 'none'}")
    if job.embedding_column not in columns and job.checkpoint is None:
        raise InvalidData(
            f"{job.source} has no column {job.embedding_column!r} of embeddings: name it, or a checkpoint to make them"
        )
    rows = sum(head.rows for head in found)
    if rows == 0:
        raise InvalidData(f"{job.source} has no rows: there is nothing to build")
    space, foreign = inputs.space(job, found[0].schema.metadata or {})
    live = _live(job)
    if live is not None and not foreign:
        inputs.check_dimension(job, columns, space, live)
    return Checked(rows=rows, columns=columns, space_id=space)


def _live(job: JobSettings) -> Manifest | None:
    """The manifest of what is live in a local store, None where there is none that can be read."""
    if is_url(job.store) or not Path(job.store).is_dir():
        return None
    try:
        store = Store(Path(job.store))
        return store.manifest(job.entity_type, store.current(job.entity_type))
    except RetrievalError:
        return None
