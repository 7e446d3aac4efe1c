"""`build`: plan → read → train → add → verify → publish, each stage resumable, one build per entity type at a time.

Everything happens in STORE/<entity type>/staging/<plan>, under names that no server reads; a killed build is resumed by
the next run of the same plan and swept away by the run of another. Knows the order of the stages and nothing of their
insides.
"""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import BrokenExecutor, Executor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from index_builders import add, publish, reuse, verify_stage
from index_builders.build_lock import build_lock
from index_builders.carried import carried, measured_reports
from index_builders.ivfpq import QUANTIZER_FILE
from index_builders.job import Job
from index_builders.plan import Plan, Progress, make_plan
from index_builders.settings import BuildSettings
from index_builders.source import Source
from index_builders.source_norms import REPORT_KEY
from index_builders.spool import spool
from index_builders.staging import Staging, write_atomically, writing
from index_builders.train import train
from index_builders.workers import make_executor
from retrieval.errors import BuildFailed
from retrieval.store import Manifest, Store
from retrieval.store.generation import CANARIES_FILE


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did. built is False when an identical generation was there already; live: whether it is served.

    reused: shards that were linked from an earlier generation.
    """

    manifest: Manifest
    path: Path
    built: bool
    live: bool
    removed: list[str]
    seconds: float
    reused: int = 0


def build(
    settings: BuildSettings,
    *,
    progress: Progress | None = None,
    executor: Executor | None = None,
    job: Job | None = None,
) -> BuildReport:
    """Build a generation from `settings` and publish it.

    job: of a rebuild: its judge is asked before anything is published, shards that did not change are linked from
    earlier generations, and old generations are left to it.
    executor: where shard tasks run; None makes processes as `settings.workers` says. Raises InvalidArgument for what
    the caller got wrong, BuildFailed when a gate stops the build, StoreError when the disk does, FailedPrecondition
    when another build of the entity type is at work. Whatever happens, the live generation stays as it was.
    """
    started = time.perf_counter()
    plan, source = make_plan(
        settings,
        delta_position=job.delta_position if job else 0,
        inherited=job.inherited_sha256 if job else None,
        source_sha256=job.source_sha256 if job else None,
        progress=progress,
    )
    store = Store(settings.store, create=True)
    home = store.prepare(plan.entity_type)
    with build_lock(home, plan.entity_type):
        with writing(home):
            store.clean(plan.entity_type)
            _remove_stale(home / "staging", keep=store.staging(plan.entity_type, plan.digest))
        found = publish.find_built(store, plan, job)
        if found is not None:
            manifest, built = found.manifest, False
            if settings.publish and publish.current_or_none(store, plan.entity_type) != manifest.id:
                publish.put_live(store, plan.entity_type, manifest.id, job)
            Staging(store.staging(plan.entity_type, plan.digest)).remove()
        else:
            manifest, built = _run(plan, source, store, settings, progress, executor, started, job), True
        live = publish.current_or_none(store, plan.entity_type)
        # while nothing is live every generation might still be wanted
        tidy = live and settings.publish and job is None
        removed = store.remove_old(plan.entity_type, keep=settings.keep) if tidy else []
    return BuildReport(
        manifest=manifest,
        path=store.generation_path(plan.entity_type, manifest.id),
        built=built,
        live=live == manifest.id,
        removed=removed,
        seconds=time.perf_counter() - started,
        reused=sum("reused_from" in shard.report for shard in manifest.shards),
    )


def _run(
    plan: Plan,
    source: Source,
    store: Store,
    settings: BuildSettings,
    progress: Progress | None,
    given: Executor | None,
    started: float,
    job: Job | None,
) -> Manifest:
    staging = Staging(store.staging(plan.entity_type, plan.digest))
    staging.prepare()
    with writing(staging.root):
        write_atomically(staging.root / "plan.json", plan.model_dump_json(indent=1).encode())
    spools, trained = staging.work / "read", staging.work / "train"
    read = staging.run("read", spools, lambda folder: spool(plan, source, folder, progress=progress))
    rows: list[int] = read["rows"]
    if progress is not None:
        progress("read", source.rows, source.rows)
    pa.default_memory_pool().release_unused()  # Arrow keeps what reading took, beside what the shards take now
    executor = given or make_executor(settings.workers)
    threads = (os.cpu_count() or 1) if settings.workers is None else max(1, settings.workers)
    try:
        learned = staging.run(
            "train",
            trained,
            lambda folder: train(
                plan,
                spools,
                rows,
                folder,
                executor=executor,
                threads=threads,
                inherited=job.inherited if job and plan.inherited else None,
            ),
        )
        if progress is not None:
            progress("train", 1, 1)
        inputs = reuse.input_digests(plan, read["sha256"], trained / QUANTIZER_FILE)
        shards = add.add(
            plan,
            staging,
            spools,
            trained,
            rows,
            inputs=inputs,
            reusable=reuse.find_built(store, plan.entity_type) if job is not None else {},
            executor=executor,
            threads=_threads_of_a_shard(plan, settings.workers),
            progress=progress,
        )
    except BrokenExecutor as error:
        raise BuildFailed(
            f"a shard process of {plan.entity_type!r} died, most likely for want of memory: use more --shards or fewer "
            "--workers, and run the build again to resume it"
        ) from error
    finally:
        if given is None:
            executor.shutdown(wait=True, cancel_futures=True)
    known = carried(store, plan, job, inputs, rows)
    verified = staging.run(
        "verify",
        staging.work / "verify",
        lambda folder: verify_stage.verify_built(plan, staging, rows, settings, folder, progress, started, known),
    )
    tuned = {"tuned": job.tuned} if job is not None and job.tuned is not None else {}
    reports = [
        {**report, REPORT_KEY: norms, **tuned, **({"trained": learned} if learned["trained"] else {})}
        for report, norms in zip(shards, read["norms"], strict=True)
    ]
    with writing(staging.generation):
        shutil.copyfile(staging.work / "verify" / CANARIES_FILE, staging.generation / CANARIES_FILE)
    manifest = publish.publish(
        plan,
        staging,
        store,
        read=read,
        shards=measured_reports(reports, inputs, plan, verified["carried"]),
        verified=verified,
        inputs=inputs,
        live=settings.publish,
        job=job,
        progress=progress,
    )
    staging.remove()
    return manifest


def _threads_of_a_shard(plan: Plan, workers: int | None) -> int:
    """One, so that the bytes can be had again; with `fast`, what the shards at work leave of the cores."""
    cores = os.cpu_count() or 1
    return max(1, cores // max(1, min(cores if workers is None else workers, plan.shards))) if plan.fast else 1


def _remove_stale(stagings: Path, keep: Path) -> None:
    """Whoever holds the lock is alone, so any other plan's folder was left by a run that died or failed."""
    for folder in stagings.iterdir() if stagings.is_dir() else ():
        if folder != keep:
            shutil.rmtree(folder)
