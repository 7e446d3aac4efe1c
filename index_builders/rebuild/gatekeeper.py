"""The gate of a job, asked while the new generation is still staged: passes, refuses, or is overruled by a person.

Its report is left in the job's folder either way. Knows nothing about how limits are judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from index_builders.gate import judge as gate_judge
from index_builders.gate import write_report
from index_builders.job import Verdict
from index_builders.rebuild.job_file import JobSettings
from index_builders.staging import writing
from retrieval.errors import BuildFailed
from retrieval.store import Generation, Store


class Refused(BuildFailed):
    """The gate said no. findings: a sentence for each limit; files: the report."""

    def __init__(self, findings: list[str], files: list[Path]) -> None:
        super().__init__(f"the gate refuses the generation by {len(findings)} of its limits: {findings[0]}")
        self.findings, self.files = findings, files


class Gatekeeper:
    """Judges against the generation `old`, None for a first one. files: the report, once there is one."""

    def __init__(
        self,
        job: JobSettings,
        store: Store,
        old: str | None,
        folder: Path,
        approve: str | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:
        self._job, self._store, self._old, self._folder = job, store, old, folder
        self._approve, self._progress = approve, progress
        self.files: list[Path] = []

    def judge(self, staged: Generation) -> Verdict:
        """The verdict on a staged generation; Refused when a limit does not hold and nobody approved."""
        report = gate_judge(
            self._open_old(staged),
            staged,
            self._job.gate,
            self._job.queries,
            seed=self._job.index.seed,
            progress=self._progress,
        )
        # drawn only where a person has to look: loading matplotlib and drawing cost more than judging a small change
        drawn = report if not report.passed else report.model_copy(update={"histograms": []})
        with writing(self._folder):
            for plot in self._folder.glob("*.png"):
                plot.unlink()  # of another run
        self.files = write_report(drawn, self._folder)
        if not report.passed and self._approve is None:
            raise Refused(report.reasons(), self.files)
        told = report.model_dump(mode="json", exclude={"histograms"})
        replayed = report.canaries is not None and all(each.limit != "canaries" for each in report.findings)
        return Verdict(gate=told, approved=self._approve if not report.passed else None, replayed=replayed)

    def _open_old(self, staged: Generation) -> Generation | None:
        """The generation to judge against, every byte checked, but for files that the staged one has been linked to.

        Those were checked when they were linked: both names are of one file.
        """
        if self._old is None:
            return None
        kind = self._job.entity_type
        manifest, path = self._store.manifest(kind, self._old), self._store.generation_path(kind, self._old)
        linked = frozenset(
            shard.name
            for shard in manifest.shards
            if all(
                _one_file(path / name, staged.path / name) and staged.manifest.files.get(name) == entry
                for name, entry in manifest.files.items()
                if name.startswith(f"{shard.name}/")
            )
        )
        others = frozenset(shard.name for shard in manifest.shards) - linked
        return replace(Generation.open(path, only=others), only=None)


def _one_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
