"""The measurement: builds every engine's index, then runs all engines repeat by repeat, so that drift falls on all.

A build and a run are each a child process. What is finished is kept and found again, so a command that was stopped goes
on, and engines can be added one by one. What fails is a row with its reason. Knows nothing about figures.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.recall_latency.data import DataSet
from bench.recall_latency.engines.interface import Engine, Kind, Params, engine_class, versions
from bench.recall_latency.judge import judge
from bench.recall_latency.machine import commit, machine, own_code
from bench.recall_latency.processes import run_job
from bench.recall_latency.rows import Row, plain, read_rows, write_rows
from retrieval.errors import DamagedData, InvalidParams
from retrieval.types import F32, I64

Progress = Callable[[str, int, int], None]
MODES = ("single:1", "batch:1", "batch:all", "single:all")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. modes: of MODES; budget_s: time of one setting; limit_s: time of one child process."""

    engines: tuple[str, ...]
    ks: tuple[int, ...] = (10, 100, 1_000)
    modes: tuple[str, ...] = MODES[:3]
    repeats: int = 3
    efforts: int = 0  # at most so many of each engine's, spread over them; 0: all
    budget_s: float = 2.0
    limit_s: float = 3_600.0
    again: tuple[str, ...] = ()  # engines whose runs are not kept
    builds: Mapping[str, Sequence[Params]] = field(default_factory=dict)  # of an engine, in the place of its own
    given_efforts: Mapping[str, Sequence[Params]] = field(default_factory=dict)  # likewise, at every k

    def __post_init__(self) -> None:
        for name, value, least in (("repeats", self.repeats, 1), ("efforts", self.efforts, 0)):
            if value < least:
                raise InvalidParams(f"{name} = {value} is not acceptable: it must be {least} or more")
        for name, seconds in (("budget_s", self.budget_s), ("limit_s", self.limit_s)):
            if not seconds > 0:
                raise InvalidParams(f"{name} = {seconds} is not acceptable: it must be above 0")
        if not self.ks or min(self.ks) < 1:
            raise InvalidParams(f"k = {', '.join(map(str, self.ks))} is not acceptable: ask for 1 answer or more")
        for mode in self.modes:
            if mode not in MODES:
                raise InvalidParams(f"mode {mode!r} is not known: choose from {', '.join(MODES)}")
        for option, names in (("--again", self.again), ("--build", self.builds), ("--effort", self.given_efforts)):
            for name in names:
                if name not in self.engines:
                    raise InvalidParams(f"{option} names {name!r}, which is not among the engines that are measured")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """An engine with one of its builds."""

    name: str
    engine: type[Engine]
    params: Params

    @property
    def label(self) -> str:
        """A name that a file can have."""
        stem = self.name.replace(":", "-").replace(".", "-")
        return f"{stem}-{hashlib.sha256(plain(self.params).encode()).hexdigest()[:8]}"

    @property
    def marks(self) -> list[Any]:
        """What makes a kept index the one that is asked for: parameters, versions, the adapter's text, our builders."""
        return [
            self.name,
            self.params,
            versions(self.engine),
            inspect.getsource(inspect.getmodule(self.engine) or object),
            own_code() if self.engine.kind is Kind.OURS else "",
        ]


class Sweep:
    """All engines of a plan over one data set; true: scores [q, max k]."""

    def __init__(self, plan: Plan, data: DataSet, true: F32, work: Path, out: Path, progress: Progress) -> None:
        self.plan, self.data, self.true, self.work, self.out = plan, data, true, work, out
        self.progress = progress
        self.cores = sorted(os.sched_getaffinity(0))
        self.machine, self.commit = machine(), commit()
        if min(plan.ks) > data.n:
            raise InvalidParams(f"k = {min(plan.ks)} is more than the {data.n} rows of {data.name}: ask for fewer")
        found = [(name, engine_class(name)) for name in dict.fromkeys(plan.engines)]
        self.units = [
            Unit(name=name, engine=engine, params=params)
            for name, engine in found
            for params in plan.builds.get(name, engine.builds)
        ]

    def run(self) -> None:
        """Build what is not built, then run what is not run."""
        built = {}
        for number, unit in enumerate(self.units):
            self.progress(f"{self.data.name}: built", number, len(self.units))
            built[unit.label] = self._build(unit)
        self.progress(f"{self.data.name}: built", len(self.units), len(self.units))
        steps = self.plan.repeats * len(self.units)
        for repeat in range(self.plan.repeats):
            # another order in every repeat, so that nobody always runs after the same neighbour
            order = np.random.default_rng(repeat).permutation(len(self.units))
            for number, place in enumerate(order):
                self.progress(f"{self.data.name}: measured", repeat * len(self.units) + number, steps)
                unit = self.units[place]
                self._run(unit, repeat, built[unit.label])
        self.progress(f"{self.data.name}: measured", steps, steps)

    def _index(self, unit: Unit) -> Path:
        return self.work / "indexes" / f"{self.data.name}-{self.data.digest[:12]}" / unit.label

    def _build(self, unit: Unit) -> dict[str, Any]:
        """Facts of the build, from the folder where it is kept or made now; {"reason": ...} when it fails."""
        folder = self._index(unit)
        record, key = folder / "built.json", _digest(unit.marks)
        if record.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged record: built again
                kept: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
                if kept["key"] == key:
                    return kept
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "index").mkdir(parents=True)
        job = {
            "task": "build",
            "engine": unit.name,
            "params": unit.params,
            "base": str(self.data.folder / "xb.npy"),
            "index": str(partial / "index"),
        }
        found = run_job(job, partial / "job", threads=len(self.cores), cores=self.cores, limit_s=self.plan.limit_s)
        if "reason" in found:
            shutil.rmtree(partial, ignore_errors=True)
            return {"reason": f"building: {found['reason']}"}
        (partial / "built.json").write_text(json.dumps({**found, "key": key}), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        return found

    def _run(self, unit: Unit, repeat: int, built: dict[str, Any]) -> None:
        path = self.out / "rows" / f"{self.data.name}-{self.data.digest[:8]}-{unit.label}-r{repeat}.parquet"
        key = self._key(unit)
        if unit.name not in self.plan.again and _finished(path, key):
            return
        facts: Row = {
            "data": self.data.name,
            "data_digest": self.data.digest,
            "n": self.data.n,
            "d": self.data.d,
            "engine": unit.name,
            "kind": str(unit.engine.kind),
            "build": plain(unit.params),
            "repeat": repeat,
            "reason": "",
            "versions": plain(versions(unit.engine)),
            "commit": self.commit,
            "machine": plain(self.machine),
            "settings_key": key,
        }
        facts |= {name: built.get(name) for name in SIZES}
        if "reason" in built:
            write_rows(path, [{**facts, "reason": built["reason"]}])
            return
        rows: list[Row] = []
        for threads in sorted({self._threads(mode) for mode in self.plan.modes}):
            rows += self._child(unit, repeat, threads, facts)
        write_rows(path, rows)

    def _child(self, unit: Unit, repeat: int, threads: int, facts: Row) -> list[Row]:
        """Rows of all settings with so many threads: one process, which opens the index and answers."""
        settings: list[dict[str, Any]] = [
            {"k": k, "mode": mode.partition(":")[0], "effort": effort}
            for k in self.plan.ks
            if k <= self.data.n
            for mode in self.plan.modes
            if self._threads(mode) == threads
            for effort in self._efforts(unit, k)
        ]
        # one core: another one in every repeat, the same for all engines
        cores = self.cores if threads > 1 else [self.cores[repeat % len(self.cores)]]
        job = {
            "task": "search",
            "engine": unit.name,
            "params": unit.params,
            "queries": str(self.data.folder / "xq.npy"),
            "index": str(self._index(unit) / "index"),
            "settings": settings,
            "budget_s": self.plan.budget_s,
        }
        with tempfile.TemporaryDirectory(dir=self.work, prefix=".run-") as scratch:
            found = run_job(job, Path(scratch), threads=threads, cores=cores, limit_s=self.plan.limit_s)
            if "reason" in found:
                return [{**facts, "threads": threads, "reason": f"searching: {found['reason']}"}]
            facts = facts | {name: found[name] for name in ("open_s", "first_query_ns", "resident_bytes")}
            return [
                facts
                | {"k": s["k"], "mode": s["mode"], "threads": threads, "effort": plain(s["effort"])}
                | self._judged(Path(scratch) / f"{number}.npz", s["k"], found["settings"][number])
                for number, s in enumerate(settings)
            ]

    def _judged(self, answers: Path, k: int, found: dict[str, Any]) -> Row:
        if "reason" in found:
            return {"reason": f"searching: {found['reason']}"}
        with np.load(answers) as file:
            ids, latency, asked = file["ids"], file["latency_ns"], int(file["asked"])
        if ids.shape != (asked, k) or ids.dtype.kind not in "iu":
            shape = f"{ids.dtype} of shape {list(ids.shape)}"
            return {"reason": f"searching: answered with {shape}, not whole numbers of shape [{asked}, {k}]"}
        whole: I64 = ids.astype(np.int64)
        judged = judge(self.data.base(), self.data.queries()[:asked], whole, self.true[:asked, : min(k, self.data.n)])
        return {
            "queries": asked,
            "cpu_share": found["cpu_share"],
            "latency_ns": latency.tolist(),
            "recall": judged.recall.tolist(),
            "missing": judged.missing,
            "duplicates": judged.duplicates,
            "unknown": judged.unknown,
        }

    def _efforts(self, unit: Unit, k: int) -> list[Params]:
        given = self.plan.given_efforts.get(unit.name)
        return _spread(unit.engine.efforts(k), self.plan.efforts) if given is None else list(given)

    def _threads(self, mode: str) -> int:
        return 1 if mode.endswith(":1") else len(self.cores)

    def _key(self, unit: Unit) -> str:
        """What makes a kept run the one that is asked for: our own code too, a peer's only by its version."""
        efforts = [self._efforts(unit, k) for k in self.plan.ks]
        asked = [self.plan.ks, self.plan.modes, efforts, self.plan.budget_s, self.data.digest, self.machine]
        own = self.commit if unit.engine.kind is Kind.OURS else ""
        return _digest([asked, unit.marks, own])


SIZES = ("build_s", "build_cpu_s", "build_base_bytes", "build_peak_bytes", "disk_bytes")


def _digest(value: Any) -> str:
    return hashlib.sha256(plain(value).encode()).hexdigest()[:16]


def _finished(path: Path, key: str) -> bool:
    """Are there rows of this very run? One in which anything failed is made again."""
    if not path.is_file():
        return False
    try:
        rows = read_rows(path)
    except DamagedData:
        return False
    return all(row["settings_key"] == key and not row["reason"] for row in rows)


def _spread(efforts: Sequence[Params], most: int) -> list[Params]:
    if not most or len(efforts) <= most:
        return list(efforts)
    chosen = np.unique(np.linspace(0, len(efforts) - 1, most).round().astype(int))
    return [efforts[place] for place in chosen]
