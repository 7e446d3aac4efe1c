"""Writes before, during and after the fold of a rebuild: none is lost, none is there twice, none comes back."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rebuild_jobs import D, N, job_file, quick, vectors, write  # noqa: F401

from index_builders.rebuild import Outcome, read_job, rebuild
from retrieval.delta import Deletes, DeltaLog, Header, LogReader, Upserts
from retrieval.store import Store
from retrieval.types import IdType

HEADER = Header(space_id="sp-test", d=D, id_type=IdType.STRING)
GATE = "max_same_vectors = 1.0\nmax_new_ids = 1.0\nmax_lost_ids = 1.0\nmax_rows_lost = 1.0\nmin_overlap_at_10 = 0.0"
GATE += "\nmin_overlap_at_100 = 0.0\nmax_score_shift = 10.0\nmax_score_drop = 10.0"


class Writer:
    """Writes at random and remembers what every id should be now; None for one that was deleted."""

    def __init__(self, folder: Path, x: np.ndarray) -> None:
        home = Store(folder / "store", create=True).prepare("pin") / "delta"
        self.log = DeltaLog(home, HEADER, segment_bytes=400)
        self.wanted: dict[str, np.ndarray | None] = {f"e{i}": row for i, row in enumerate(x)}
        self.random, self.writes = random.Random(0), 0

    def once(self) -> None:
        self.writes += 1
        ids = self.random.sample([f"e{i}" for i in range(40)] + [f"new{i}" for i in range(40)], 3)
        if self.random.random() < 0.4:
            self.log.append(Deletes(ids=ids))
            self.wanted |= dict.fromkeys(ids)
            return
        x = np.random.default_rng(self.writes).standard_normal((len(ids), D), dtype=np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        self.log.append(Upserts(ids=ids, vectors=x, attributes=[{}] * len(ids)))
        self.wanted |= dict(zip(ids, x, strict=True))


def shown(folder: Path) -> dict[str, np.ndarray]:
    """What a server would show: the live generation, and beside it the writes behind its position."""
    store = Store(folder / "store")
    generation = store.open("pin", store.current("pin"))
    found: dict[str, np.ndarray] = {}
    for shard in generation.shards:
        for id_, row in zip(shard.rows().column("id").to_pylist(), np.load(shard.path / "vectors.npy"), strict=True):
            assert id_ not in found, f"{id_} is in two shards or twice in one"
            found[id_] = row
    reader = LogReader(folder / "store/pin/delta", after=generation.manifest.delta_position)
    for entry in reader.read():
        if isinstance(entry.write, Upserts):
            found |= dict(zip(entry.write.ids, entry.write.vectors, strict=True))
        else:
            for id_ in entry.write.ids:
                found.pop(id_, None)
    assert reader.missing == 0, "the log lost writes that the live generation does not hold"
    return found


def check(folder: Path, wanted: dict[str, np.ndarray | None]) -> None:
    found = shown(folder)
    assert set(found) == {id_ for id_, row in wanted.items() if row is not None}
    for id_, row in found.items():
        np.testing.assert_allclose(row, wanted[id_] / np.linalg.norm(wanted[id_]), atol=2e-3)


def job(folder: Path, **tables: str):
    return read_job(job_file(folder, top="keep = 1", gate=GATE, **tables))


@pytest.mark.parametrize("stage", ["read", "gate", "publish"])
def test_a_write_in_the_middle_of_any_stage_is_there_after_it_and_after_the_next_rebuild(tmp_path, stage):
    x = vectors()
    write(tmp_path, x)
    writer = Writer(tmp_path, x)
    for _ in range(5):
        writer.once()
    seen = set()

    def meanwhile(at: str, done: int, total: int) -> None:
        if at == stage and at not in seen:
            seen.add(at)
            for _ in range(5):
                writer.once()

    for changed in (None, 200, None, 201):  # of the source, which lies beside what is written
        if changed is not None:
            x[changed] = -x[changed]
            writer.wanted[f"e{changed}"] = x[changed]
            write(tmp_path, x)
        seen.clear()
        assert rebuild(job(tmp_path), progress=meanwhile).outcome is Outcome.PUBLISHED
        assert seen == {stage}
        check(tmp_path, writer.wanted)
    assert len(shown(tmp_path)) != N


def test_a_server_that_never_stops_writing_loses_nothing(tmp_path):
    x = vectors()
    write(tmp_path, x)
    writer, stop = Writer(tmp_path, x), threading.Event()

    def work() -> None:
        while not stop.is_set():
            writer.once()
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        positions = []
        for _ in range(4):
            assert rebuild(job(tmp_path)).outcome is Outcome.PUBLISHED
            store = Store(tmp_path / "store")
            positions.append(store.manifest("pin", store.current("pin")).delta_position)
    finally:
        stop.set()
        thread.join()
    assert positions == sorted(set(positions))  # each took in what had arrived meanwhile
    check(tmp_path, writer.wanted)
    assert rebuild(job(tmp_path)).outcome is Outcome.PUBLISHED
    check(tmp_path, writer.wanted)
    assert rebuild(job(tmp_path)).outcome is Outcome.UNCHANGED
