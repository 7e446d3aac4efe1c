"""`rebuild`: read → embed what changed → fold in the delta → build what changed → gate → publish → collect garbage.

Under a lease from the first step to the last, so that of two jobs one works. Every step leaves work that the next run
takes up after a kill; the same inputs again do nothing. Knows the order of the steps and nothing of their insides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from index_builders import tables
from index_builders.build import build
from index_builders.calibrate import Speeds
from index_builders.estimate import check_limits, estimate
from index_builders.gate import GateReport
from index_builders.job import Job
from index_builders.limits import find_limits, parse_size
from index_builders.rebuild import inputs as job_inputs
from index_builders.rebuild.fetch import local_files
from index_builders.rebuild.gatekeeper import Gatekeeper, Refused
from index_builders.rebuild.inherit import inherited_quantizer
from index_builders.rebuild.job_file import JobSettings
from index_builders.rebuild.overlay import Overlay
from index_builders.rebuild.prepare import prepare, source_tables
from index_builders.rebuild.report import Outcome, RebuildReport
from index_builders.rebuild.stage_cpu import StageCpu
from index_builders.rebuild.state import State, check_columns, read_state, write_state
from index_builders.rebuild.tuned import tuned
from index_builders.settings import BuildSettings, make_settings
from index_builders.staging import writing
from retrieval.delta import Folded, trim
from retrieval.errors import FailedPrecondition, NoGeneration, RetrievalError
from retrieval.store import Lease, Mirror, Store
from retrieval.store.gc import collect_garbage
from retrieval.store.place import is_url

Progress = Callable[[str, int, int], None]
# only bytes are held against limits, so the machine's speed is not measured
_UNTIMED = Speeds(byte_s=0.0, multiply_s=0.0, score_s=0.0, graph_row_s=0.0)


def rebuild(
    job: JobSettings, *, approve: str | None = None, new_columns: bool = False, progress: Progress | None = None
) -> RebuildReport:
    """Carry out `job`; approve: why a person wants it published whatever the gate says.

    new_columns: accept that columns of the source are gone or of another type. Raises InvalidData, InvalidParams or
    SpaceMismatch for inputs that cannot be used, FailedPrecondition while another job is at work or limits do not hold,
    BuildFailed, StoreError. Whatever happens, what is live stays live unless the outcome is PUBLISHED.
    """
    began = time.perf_counter()
    work = job.work_folder()
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    mirror = Mirror(job.store, work / "store", progress=progress) if is_url(job.store) else None
    store = mirror.store if mirror is not None else Store(Path(job.store), create=True)
    home = store.prepare(job.entity_type)
    place = mirror.home(job.entity_type) if mirror is not None else home
    with Lease(place, owner="rebuild", lease_s=job.limits.lease_s) as lease:
        return _Run(job, store, mirror, lease, home, work, approve, new_columns, progress, began).run()


class _Run:
    def __init__(
        self,
        job: JobSettings,
        store: Store,
        mirror: Mirror | None,
        lease: Lease,
        home: Path,
        work: Path,
        approve: str | None,
        new_columns: bool,
        progress: Progress | None,
        began: float,
    ) -> None:
        self._job, self._store, self._mirror, self._lease = job, store, mirror, lease
        self._home, self._work, self._approve, self._new_columns = home, work, approve, new_columns
        self._progress, self._began = StageCpu(progress), began
        self._notes: list[str] = []

    def run(self) -> RebuildReport:
        job, state = self._job, read_state(self._work)
        source = local_files(job.source, self._work)
        columns = job_inputs.columns(source)
        if not self._new_columns:
            check_columns(state.columns, columns, job.source, job.embedding_column)
        space, foreign = job_inputs.space(job, job_inputs.metadata(source))
        parent, vanished = self._parent()
        if parent is not None and not vanished and not foreign:
            job_inputs.check_dimension(job, columns, space, self._store.manifest(job.entity_type, parent))
        overlay = self._overlay()
        position = overlay.position if overlay else 0
        hashes = job_inputs.source_hashes(source)
        digest = job_inputs.digest(job, hashes, space, position)
        if state.inputs == digest and self._is_there(state.generation):
            return self._unchanged(state, parent)
        folded = None if overlay is None else self._folded(overlay, source)
        prepared = prepare(
            job,
            source,
            self._work,
            inputs=digest,
            space_id=space,
            foreign=foreign,
            folded=folded,
            progress=self._progress,
        )
        if prepared.left_out:
            self._notes.append(f"{prepared.left_out} rows have nothing that the checkpoint reads and were left out")
        if prepared.unfit:
            self._notes.append(
                f"attributes of the delta that do not fit the source were left out: {', '.join(prepared.unfit)}"
            )
        old = None if vanished else parent
        settings = self._settings(prepared.source, space, {})
        chosen = tuned(job, self._store, old, settings, self._progress)
        self._notes += [chosen.note] if chosen.note else []
        self._job = job = job.model_copy(update={"index": chosen.index})
        rows = sum(tables.count_rows(file) for file in tables.list_tables(prepared.source))
        quantizer = inherited_quantizer(self._store, job, old, self._work, rows=rows)
        settings = self._settings(prepared.source, space, quantizer.params if quantizer else {})
        check_limits(estimate(settings, speeds=_UNTIMED), find_limits(Path(self._store.root), **self._limits()))
        keeper = Gatekeeper(job, self._store, old, self._work / "gate", self._approve, self._progress)
        try:
            built = build(
                settings,
                progress=self._progress,
                job=Job(
                    judge=keeper.judge,
                    parent=parent,
                    lease=self._lease,
                    carry_above=job.index.carry_above,
                    delta_position=position,
                    inherited=quantizer.offer if quantizer else None,
                    inherited_sha256=quantizer.sha256 if quantizer else None,
                    tuned=chosen.bounds,
                    source_sha256=hashes if prepared.source == source else None,
                    taken=() if self._mirror is None else tuple(self._mirror.generations(job.entity_type)),
                ),
            )
        except Refused as refused:
            return self._report(Outcome.REFUSED, None, parent, 0, findings=refused.findings, gate_report=refused.files)
        manifest = built.manifest
        if self._mirror is not None:
            self._mirror.push(job.entity_type, manifest.id)
            self._mirror.move_pointer(job.entity_type, manifest.id, expected=parent, lease=self._lease)
            self._store.publish(job.entity_type, manifest.id)
        write_state(self._work, State(inputs=digest, generation=manifest.id, rows=manifest.rows, columns=columns))
        if not built.built:
            self._notes.append(f"generation {manifest.id} had been built from the same inputs before")
        quarantined = manifest.quarantine.counts
        if quarantined:
            named = ", ".join(f"{count:,} {reason}" for reason, count in sorted(quarantined.items()))
            self._notes.append(f"{manifest.quarantine.total:,} rows were refused: {named}")
        return self._report(
            Outcome.UNCHANGED if manifest.id == parent else Outcome.PUBLISHED,
            manifest.id,
            parent,
            manifest.rows,
            embedded=prepared.embedded,
            reused=built.reused,
            built=len(manifest.shards) - built.reused if built.built else 0,
            folded=position,
            removed=self._collect(),
            approved=manifest.approved,
            findings=GateReport(**manifest.gate).reasons() if manifest.approved and manifest.gate else [],
            gate_report=keeper.files,
        )

    def _parent(self) -> tuple[str | None, bool]:
        """What is live, and whether its files are gone; the local copy of a URL's is brought up to it."""
        where = self._mirror or self._store
        try:
            live = where.current(self._job.entity_type)
        except NoGeneration:
            return None, False
        try:
            if self._mirror is not None:
                self._mirror.fetch(self._job.entity_type, live)
                self._store.publish(self._job.entity_type, live)
            self._store.manifest(self._job.entity_type, live)
        except RetrievalError as error:
            if self._approve is None:  # a first run is not judged by what was there, and this is none
                raise FailedPrecondition(
                    f"the live generation {live} of {self._job.entity_type!r} cannot be compared with: {error}; make "
                    "another one live with retrieval rollback or publish, or give --approve REASON to build all anew "
                    "and publish it without comparing"
                ) from error
            self._notes.append(f"the live generation {live} cannot be used, so all is built anew: {error}")
            return live, True
        return live, False

    def _overlay(self) -> Overlay | None:
        """The writes to fold in, None where there are none; a store at a URL has no delta of its own."""
        if not self._job.delta or self._mirror is not None:
            return None
        overlay = Overlay(self._work, self._home / "delta")
        return overlay if overlay.position else None

    def _folded(self, overlay: Overlay, source: Path) -> Folded:
        dropped = overlay.settle(source_tables(tables.list_tables(source)), self._job.id_column)
        if dropped:
            self._notes.append(f"{dropped} writes of the delta were overtaken by newer rows of the source")
        folded = overlay.folded()
        overlay.save()  # before anything depends on it: what is trimmed from the log has to be here
        return folded

    def _is_there(self, generation: str) -> bool:
        with suppress(RetrievalError):
            self._store.manifest(self._job.entity_type, generation)
            return True
        return False

    def _unchanged(self, state: State, live: str | None) -> RebuildReport:
        if live != state.generation:
            self._notes.append(
                f"{state.generation} was made of these inputs and {live or 'nothing'} is live: it was rolled back, and "
                "stays so until the inputs change or somebody publishes it"
            )
        return self._report(Outcome.UNCHANGED, state.generation, live, state.rows)

    def _settings(self, source: Path, space: str, params: dict[str, object]) -> BuildSettings:
        job, index = self._job, self._job.index
        return make_settings(
            source=source,
            store=self._store.root,
            entity_type=job.entity_type,
            space_id=space,
            metric=index.metric,
            shards=index.shards,
            kind=index.kind,
            params={**index.params, **params},
            row_order="id",
            fast=index.fast,
            seed=index.seed,
            workers=index.workers,
            keep=job.keep,
            publish=self._mirror is None,
            max_quarantined=index.max_quarantined,
            target_recall=index.target_recall,
            min_recall=index.min_recall,
            queries=job.queries,
            canary_texts=job.canary_texts,
            checkpoint=job.checkpoint if job.canary_texts is not None else None,
            verify_queries=index.verify_queries,
            id_column=job.id_column,
            embedding_column=job.embedding_column,
        )

    def _limits(self) -> dict[str, int | None]:
        given = {"memory": self._job.limits.memory, "disk": self._job.limits.disk}
        return {
            f"max_{name}": None if value is None else parse_size(value, f"limits.{name}")
            for name, value in given.items()
        }

    def _collect(self) -> list[str]:
        kind, keep = self._job.entity_type, self._job.keep
        removed = collect_garbage(self._store, kind, keep=keep, lease=self._lease)
        if self._mirror is not None:
            removed = collect_garbage(self._mirror, kind, keep=keep, lease=self._lease)
        if self._job.delta and self._mirror is None:
            with suppress(RetrievalError):  # next to a generation that cannot be read the log stays whole
                kept = [self._store.manifest(kind, each).delta_position for each in self._store.generations(kind)]
                trim(self._home / "delta", min(kept))
        return [each.name for each in removed if each.kind == "generation"]

    def _report(
        self, outcome: Outcome, generation: str | None, parent: str | None, rows: int, **more: object
    ) -> RebuildReport:
        return RebuildReport(
            outcome=outcome,
            entity_type=self._job.entity_type,
            generation=generation,
            parent=parent,
            rows=rows,
            notes=self._notes,
            seconds=time.perf_counter() - self._began,
            cpu_s=self._progress.seconds(),
            **more,  # type: ignore[arg-type]
        )
