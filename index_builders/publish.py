"""Stage 5, publish: the manifest over every byte, then one rename, then the pointer.

Nothing is visible to a server before the rename, nothing is served before the pointer moves, and a crash between any
two steps leaves the old generation serving. Knows nothing about index kinds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from index_builders.add import shard_name
from index_builders.gate.canaries import replay_built
from index_builders.job import Job
from index_builders.plan import Plan, Progress
from index_builders.staging import Staging, write_atomically, writing
from retrieval.errors import DamagedData, NoGeneration, StoreError
from retrieval.store import Generation, Manifest, ShardManifest, Store
from retrieval.store.checksums import list_files, sha256_files
from retrieval.store.manifest import MANIFEST_FILE, FileEntry, FrontierPoint, Quarantine


def publish(
    plan: Plan,
    staging: Staging,
    store: Store,
    *,
    read: dict[str, Any],
    shards: list[dict[str, Any]],
    verified: dict[str, Any],
    inputs: list[str],
    live: bool,
    job: Job | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make the staged folder a generation and, if `live`, the live one; StoreError when the disk refuses.

    inputs: the digest of each shard's input. job: whose judge is asked before the generation is admitted.
    """
    parent = current_or_none(store, plan.entity_type) if job is None else job.parent
    with writing(staging.generation):
        (staging.generation / MANIFEST_FILE).unlink(missing_ok=True)  # of a run that was stopped at this point
        files = _entries(plan, staging)
        manifest = Manifest(
            id=store.next_id(plan.entity_type, plan.digest, taken=() if job is None else job.taken),
            plan_digest=plan.digest,
            parent=parent,
            entity_type=plan.entity_type,
            space_id=plan.space_id,
            metric=plan.metric,
            d=plan.d,
            id_type=plan.id_type,
            vector_dtype=plan.build_params.vectors,
            placement=plan.placement,
            seed=plan.seed,
            rows_in=read["rows_in"],
            rows=sum(read["rows"]),
            quarantine=Quarantine(**read["quarantine"]),
            shards=[
                ShardManifest(
                    name=shard_name(i),
                    rows=read["rows"][i],
                    kind=plan.kind,
                    build_params=plan.params,
                    report=report,
                    input_sha256=inputs[i],
                )
                for i, report in enumerate(shards)
            ],
            default_search={plan.kind: verified["default"]},
            frontier=[FrontierPoint(**point) for point in verified["frontier"]],
            scan_crossover=verified["scan_crossover"],
            query_source=verified["query_source"],
            warnings=[*verified["warnings"], *_changes(store, plan, parent)],
            library_versions=plan.library_versions,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            content_sha256=content_sha256(files),
            fast=plan.fast,
            delta_position=plan.delta_position,
            files=files,
        )
        verdict = None
        if job is not None:
            verdict = job.judge(Generation(path=staging.generation, manifest=manifest))
            manifest = manifest.model_copy(update={"gate": verdict.gate, "approved": verdict.approved})
        write_atomically(staging.generation / MANIFEST_FILE, manifest.to_bytes())
    if verdict is None or not verdict.replayed:
        replay_built(staging.generation, manifest=manifest)
    store.admit(staging.generation, plan.entity_type, manifest.id)
    if live:
        put_live(store, plan.entity_type, manifest.id, job)
    if progress is not None:
        progress("publish", 1, 1)
    return manifest


def _entries(plan: Plan, staging: Staging) -> dict[str, FileEntry]:
    """Entries of all files of the staged generation; those of a shard are what its stage had put on record.

    A byte that changed since would be found by the first who opens the generation.
    """
    known = {
        f"{shard_name(i)}/{name}": digest
        for i in range(plan.shards)
        for name, digest in staging.hashes(shard_name(i)).items()
    }
    names = list_files(staging.generation)
    found = sha256_files(staging.generation, [name for name in names if name not in known])
    for name in names:
        if name in known:
            size = (staging.generation / name).stat().st_size
            found[name] = FileEntry(size_bytes=size, sha256=known[name])
    return found


def put_live(store: Store, entity_type: str, generation: str, job: Job | None) -> None:
    """Move the pointer; a job's only from the generation that it was judged against, and under its lease."""
    if job is None:
        store.publish(entity_type, generation)
    else:
        store.publish(entity_type, generation, expected=job.parent, lease=job.lease)


def content_sha256(files: Mapping[str, FileEntry]) -> str:
    """SHA-256 over the names and SHA-256 of files, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].sha256}\n".encode())
    return digest.hexdigest()


def find_built(store: Store, plan: Plan, job: Job | None = None) -> Generation | None:
    """The newest whole generation that an identical plan has made; a damaged one does not count.

    For a job one that was judged against another generation than the live one does not count either: its shards are
    linked into a new generation, which has to pass.
    """
    for generation in reversed(store.generations(plan.entity_type)):
        if not generation.endswith(plan.digest[:8]):
            continue
        try:
            found = store.open(plan.entity_type, generation)
        except (DamagedData, StoreError):
            continue
        judged = job is None or job.parent in {found.manifest.id, found.manifest.parent}
        if judged and found.manifest.plan_digest == plan.digest:
            return found
    return None


def _changes(store: Store, plan: Plan, parent: str | None) -> list[str]:
    """What a caller of the live generation would be surprised by in this one."""
    if parent is None:
        return []
    try:
        live = store.manifest(plan.entity_type, parent)
    except (DamagedData, NoGeneration, StoreError):
        return []
    pairs = (("space", live.space_id, plan.space_id), ("metric", str(live.metric), str(plan.metric)))
    return [f"the {what} changes from {old} to {new}: queries need it too" for what, old, new in pairs if old != new]


def current_or_none(store: Store, entity_type: str) -> str | None:
    """Id of the live generation, None when nothing is live."""
    try:
        return store.current(entity_type)
    except NoGeneration:
        return None
