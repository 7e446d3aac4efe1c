"""Writes of the delta in rebuilds: folded in, kept when the log is trimmed, overtaken by newer rows of the source."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from rebuild_jobs import D, N, quick, run, vectors, write  # noqa: F401

from index_builders.rebuild import Outcome
from retrieval.delta import Deletes, DeltaLog, Header, Upserts
from retrieval.errors import DamagedData, FailedPrecondition
from retrieval.store import Store
from retrieval.types import IdType

HEADER = Header(space_id="sp-test", d=D, id_type=IdType.STRING)
GATE = "max_same_vectors = 1.0"


def log(folder):
    home = Store(folder / "store", create=True).prepare("pin") / "delta"
    return DeltaLog(home, HEADER, segment_bytes=1)


def upsert(folder, *ids, seed=0):
    x = np.random.default_rng(seed).standard_normal((len(ids), D), dtype=np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    log(folder).append(Upserts(ids=list(ids), vectors=x, attributes=[{}] * len(ids)))
    return x


def held(folder):
    """Vector of every id of the live generation."""
    store = Store(folder / "store")
    found = {}
    for shard in store.open("pin", store.current("pin")).shards:
        found |= zip(shard.rows().column("id").to_pylist(), np.load(shard.path / "vectors.npy"), strict=True)
    return found


def segments(folder):
    return sorted(path.name for path in (folder / "store/pin/delta").glob("segment-*"))


def test_folded_writes_outlive_the_log_until_the_source_knows_better(tmp_path):
    x = vectors()
    write(tmp_path, x)
    put = upsert(tmp_path, "new", "e5")
    log(tmp_path).append(Deletes(ids=["e7"]))
    upsert(tmp_path, "last")
    before = segments(tmp_path)
    assert run(tmp_path, gate=GATE, top="keep = 1").folded == 4
    assert len(segments(tmp_path)) < len(before)
    assert run(tmp_path, gate=GATE, top="keep = 1").outcome is Outcome.UNCHANGED

    x[11] = -x[11]  # another row: every write is still to be folded in, and the log has lost most of them
    write(tmp_path, x)
    again = run(tmp_path, gate=GATE, top="keep = 1")
    found = held(tmp_path)
    assert again.outcome is Outcome.PUBLISHED
    assert set(found) == {f"e{i}" for i in range(N)} - {"e7"} | {"new", "last"}
    np.testing.assert_allclose(found["e5"], put[1], atol=1e-3)
    np.testing.assert_allclose(found["new"], put[0], atol=1e-3)

    x[5], x[7] = x[20], x[21]  # newer words of the source on an entity that was upserted and on one deleted
    write(tmp_path, x)
    third = run(tmp_path, gate=GATE, top="keep = 1")
    found = held(tmp_path)
    assert any("2 writes of the delta were overtaken" in note for note in third.notes)
    np.testing.assert_allclose(found["e5"], x[5], atol=1e-3)
    np.testing.assert_allclose(found["e7"], x[7], atol=1e-3)
    np.testing.assert_allclose(found["new"], put[0], atol=1e-3)


def test_a_write_after_the_source_beats_it_again(tmp_path):
    x = vectors()
    write(tmp_path, x)
    upsert(tmp_path, "e5")
    run(tmp_path, gate=GATE)
    x[5] = x[20]
    write(tmp_path, x)
    put = upsert(tmp_path, "e5", seed=3)
    run(tmp_path, gate=GATE)
    np.testing.assert_allclose(held(tmp_path)["e5"], put[0], atol=1e-3)


def test_nothing_is_trimmed_that_a_kept_generation_does_not_hold(tmp_path):
    x = vectors()
    write(tmp_path, x)
    run(tmp_path, gate=GATE)
    upsert(tmp_path, "a")
    upsert(tmp_path, "b")
    run(tmp_path, gate=GATE)
    assert len(segments(tmp_path)) == 2


def test_a_lost_or_damaged_overlay_stops_the_job(tmp_path):
    x = vectors()
    write(tmp_path, x)
    upsert(tmp_path, "a")
    upsert(tmp_path, "b")
    run(tmp_path, gate=GATE)
    live = Store(tmp_path / "store").current("pin")
    overlay = tmp_path / "store.work/pin/overlay.arrow"
    overlay.write_bytes(overlay.read_bytes()[:40])
    with pytest.raises(DamagedData, match=r"overlay.arrow cannot be read .*delta = false"):
        run(tmp_path, gate=GATE)
    overlay.unlink()
    upsert(tmp_path, "c")
    with pytest.raises(FailedPrecondition, match=r"1 writes of the delta were trimmed .*delta = false"):
        run(tmp_path, gate=GATE)
    assert Store(tmp_path / "store").current("pin") == live


def test_attributes_that_the_source_has_no_more_are_left_out(tmp_path):
    x = vectors()
    write(tmp_path, x, price=list(range(len(x))), note=["n"] * len(x))
    run(tmp_path, gate=GATE)
    put = np.eye(1, D, dtype=np.float32)
    log(tmp_path).append(Upserts(ids=["new"], vectors=put, attributes=[{"price": 7, "note": "fresh"}]))
    run(tmp_path, gate=GATE)
    x[11] = -x[11]
    write(tmp_path, x, price=["cheap"] * len(x))  # one is gone, the other of another type
    report = run(tmp_path, gate=GATE, new_columns=True)
    assert report.outcome is Outcome.PUBLISHED
    assert "attributes of the delta that do not fit the source were left out: note, price" in report.notes
    store = Store(tmp_path / "store")
    rows = pa.concat_tables(shard.rows() for shard in store.open("pin", report.generation).shards)
    assert rows.filter(pc.equal(rows["id"], "new")).select(["id", "price"]).to_pylist() == [
        {"id": "new", "price": None}
    ]
