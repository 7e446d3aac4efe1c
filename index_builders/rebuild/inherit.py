"""The trained quantizer of the live generation, offered to its successor so that unchanged shards can stay.

It is read out of a shard's own index file; nothing else has to be kept for it. Knows nothing about drift, which the
training stage measures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index_builders import ivfpq
from index_builders.rebuild.job_file import JobSettings
from index_builders.staging import hash_file, temporary_name, writing
from index_builders.train import Inherited
from retrieval.errors import RetrievalError
from retrieval.indexes.ivfpq import INDEX_FILE
from retrieval.store import Store
from retrieval.types import IndexKind

_ROWS_MAY_DIFFER = 1.5  # by this factor from the rows that the lists were chosen for, before they are chosen anew


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """offer: what training may keep; sha256: of its file; params: what it fixes of the build's parameters."""

    offer: Inherited
    sha256: str
    params: dict[str, Any]


def inherited_quantizer(
    store: Store, job: JobSettings, parent: str | None, work: Path, *, rows: int
) -> Quantizer | None:
    """What the generation `parent` offers to one of `rows`; None where it has none that this job could use."""
    if parent is None or job.index.kind is not IndexKind.IVFPQ:
        return None
    try:
        generation = store.open(job.entity_type, parent)
    except RetrievalError:
        return None
    manifest = generation.manifest
    shard = manifest.shards[0]
    trained = shard.report.get("trained", {})
    ratio = rows / manifest.rows_in
    rows_differ = not 1 / _ROWS_MAY_DIFFER <= ratio <= _ROWS_MAY_DIFFER
    if (
        shard.kind is not IndexKind.IVFPQ
        or "distortion" not in trained
        or rows_differ
        or len(manifest.shards) != job.index.shards
        or manifest.metric is not job.index.metric
        or any(shard.build_params.get(name) != value for name, value in job.index.params.items() if value)
    ):
        return None
    file = work / ivfpq.QUANTIZER_FILE
    with writing(file):
        ivfpq.empty_copy(generation.path / shard.name / INDEX_FILE, temporary_name(file))
        temporary_name(file).replace(file)
    offer = Inherited(file=file, distortion=float(trained["distortion"]), max_drift=job.index.max_drift)
    fixed = {name: shard.build_params[name] for name in ("nlist", "pq_dims")}
    return Quantizer(offer=offer, sha256=hash_file(file), params=fixed)
