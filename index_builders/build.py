"""`build`: plan → read → train → add → verify → publish, each stage resumable, one build per entity type at a time.

Everything happens in STORE/<entity type>/staging/<plan>, under names that no server reads; a killed build is resumed by
the next run of the same plan and swept away by the run of another. Knows the order of the stages and nothing of their
insides.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Executor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from index_builders import add, bands, publish, queries, verify
from index_builders.plan import Plan, Progress, make_plan
from index_builders.settings import BuildSettings
from index_builders.source import Source
from index_builders.spool import open_vectors, read_rows, spool, vectors_file
from index_builders.staging import Staging, write_atomically, writing
from index_builders.train import train
from index_builders.workers import make_executor
from retrieval.errors import BuildFailed, FailedPrecondition
from retrieval.store import Manifest, Store
from retrieval.store.generation import CANARIES_FILE, ID_COLUMN

_LOCK_FILE = "build.lock"


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did. built is False when an identical generation was there already; live: whether it is served."""

    manifest: Manifest
    path: Path
    built: bool
    live: bool
    removed: list[str]
    seconds: float


def build(
    settings: BuildSettings, *, progress: Progress | None = None, executor: Executor | None = None
) -> BuildReport:
    """Build a generation from `settings` and publish it.

    executor: where shard tasks run; None makes processes as `settings.workers` says. Raises InvalidArgument for what
    the caller got wrong, BuildFailed when a gate stops the build, StoreError when the disk does, FailedPrecondition
    when another build of the entity type is at work. Whatever happens, the live generation stays as it was.
    """
    started = time.perf_counter()
    plan, source = make_plan(settings, progress=progress)
    store = Store(settings.store, create=True)
    home = store.prepare(plan.entity_type)
    with _lock(home, plan.entity_type):
        with writing(home):
            store.clean(plan.entity_type)
            _remove_stale(home / "staging", keep=store.staging(plan.entity_type, plan.digest))
        found = publish.find_built(store, plan)
        if found is not None:
            manifest, built = found.manifest, False
            if settings.publish and publish.current_or_none(store, plan.entity_type) != manifest.id:
                store.publish(plan.entity_type, manifest.id)
            Staging(store.staging(plan.entity_type, plan.digest)).remove()
        else:
            manifest, built = _run(plan, source, store, settings, progress, executor, started), True
        live = publish.current_or_none(store, plan.entity_type)
        # while nothing is live every generation might still be wanted
        removed = store.remove_old(plan.entity_type, keep=settings.keep) if live and settings.publish else []
    return BuildReport(
        manifest=manifest,
        path=store.generation_path(plan.entity_type, manifest.id),
        built=built,
        live=live == manifest.id,
        removed=removed,
        seconds=time.perf_counter() - started,
    )


def _run(
    plan: Plan,
    source: Source,
    store: Store,
    settings: BuildSettings,
    progress: Progress | None,
    given: Executor | None,
    started: float,
) -> Manifest:
    staging = Staging(store.staging(plan.entity_type, plan.digest))
    staging.prepare()
    with writing(staging.root):
        write_atomically(staging.root / "plan.json", plan.model_dump_json(indent=1).encode())
    spools, trained = staging.work / "read", staging.work / "train"
    read = staging.run("read", spools, lambda folder: spool(plan, source, folder, progress=progress))
    rows: list[int] = read["rows"]
    executor = given or make_executor(settings.workers)
    threads = (os.cpu_count() or 1) if settings.workers is None else max(1, settings.workers)
    try:
        staging.run(
            "train", trained, lambda folder: train(plan, spools, rows, folder, executor=executor, threads=threads)
        )
        if progress is not None:
            progress("train", 1, 1)
        shards = add.add(plan, staging, spools, trained, rows, executor=executor, progress=progress)
    except BrokenExecutor as error:
        raise BuildFailed(
            f"a shard process of {plan.entity_type!r} died, most likely for want of memory: use more --shards or fewer "
            "--workers, and run the build again to resume it"
        ) from error
    finally:
        if given is None:
            executor.shutdown(wait=True, cancel_futures=True)
    verified = staging.run(
        "verify",
        staging.work / "verify",
        lambda folder: _verify(plan, staging, rows, settings, folder, progress, started),
    )
    with writing(staging.generation):
        shutil.copyfile(staging.work / "verify" / CANARIES_FILE, staging.generation / CANARIES_FILE)
    manifest = publish.publish(
        plan, staging, store, read=read, shards=shards, verified=verified, live=settings.publish, progress=progress
    )
    staging.remove()
    return manifest


def _verify(
    plan: Plan,
    staging: Staging,
    rows: list[int],
    settings: BuildSettings,
    out: Path,
    progress: Progress | None,
    started: float,
) -> dict[str, Any]:
    parts = [_part(plan, staging, shard, rows[shard]) for shard in range(plan.shards)]
    if settings.queries is not None:
        xq = queries.read_queries(settings.queries, plan.d, plan.metric, plan.verify_queries, plan.seed)
    else:
        xq = queries.perturbed_items([part.exact() for part in parts], plan.metric, plan.verify_queries, plan.seed)
    ladder = verify.efforts(plan.kind, plan.params)
    measured = verify.measure(parts, xq, plan.metric, ladder, target_recall=plan.target_recall, progress=progress)
    verify.gate(measured, plan.min_recall)
    verify.canaries(parts, xq, measured.default, out / CANARIES_FILE)
    crossovers = verify.scan_crossovers(parts, xq, measured.default, plan.seed)
    budget_s = max(bands.LEAST_S, bands.SHARE_OF_BUILD * (time.perf_counter() - started))
    filtered = bands.measure_bands(parts, xq, plan.metric, ladder, budget_s=budget_s, seed=plan.seed)
    return {
        "default": measured.default.model_dump(mode="json"),
        "frontier": [point.model_dump() for point in (*measured.frontier, *filtered)],
        "scan_crossover": {kind: found.model_dump(mode="json") for kind, found in crossovers.items()},
        "query_source": queries.describe(settings.queries, len(xq), plan.seed)
        + "; truth: exact search over the float32 source",
        "warnings": measured.warnings,
    }


def _part(plan: Plan, staging: Staging, shard: int, rows: int) -> verify.Part:
    spools, order = staging.work / "read", add.order_file(staging, shard)
    path = staging.generation / add.shard_name(shard)
    return verify.Part(
        path=path,
        kind=plan.kind,
        rows=rows,
        exact=lambda: open_vectors(vectors_file(spools, shard)),
        order=lambda: np.load(order) if order.exists() else None,
        ids=lambda: read_rows(path / "rows.arrow").column(ID_COLUMN),
    )


def _remove_stale(stagings: Path, keep: Path) -> None:
    """Whoever holds the lock is alone, so any other plan's folder was left by a run that died or failed."""
    for folder in stagings.iterdir() if stagings.is_dir() else ():
        if folder != keep:
            shutil.rmtree(folder)


@contextmanager
def _lock(home: Path, entity_type: str) -> Iterator[None]:
    """Hold the build lock of an entity type; the system lets go of it when the process ends, however it ends."""
    with writing(home / _LOCK_FILE), (home / _LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FailedPrecondition(
                f"another build of {entity_type!r} is at work in {home.parent} (process {owner}): wait until it ends, "
                "or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
