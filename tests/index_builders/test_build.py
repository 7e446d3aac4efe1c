"""A whole build: what is in the generation, what a second run does, what concurrent and killed builds leave."""

import fcntl
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import ipc

from bench.data import clustered
from index_builders import add as add_stage
from index_builders import build as build_module
from index_builders import verify
from retrieval import topk
from retrieval.errors import BuildFailed, FailedPrecondition
from retrieval.indexes import open_index
from retrieval.params import SEARCH_PARAMS, make_params
from retrieval.store import Store
from retrieval.store.placement import shard_of
from retrieval.topk import merge
from retrieval.types import NO_ROW, IdType, IndexKind, Metric

KINDS = [IndexKind.FLAT, IndexKind.HNSW, IndexKind.IVFPQ]


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", KINDS)
def test_merged_answers_name_the_right_entities(write, run, kind, metric):
    x = clustered(1_500, 16, seed=4, clusters=30, intrinsic=8)
    x = x * np.linspace(0.5, 2, len(x), dtype=np.float32)[:, None]
    source = write(x, color=pa.array([f"c{i % 7}" for i in range(len(x))]).dictionary_encode())
    report = run(source, kind=kind, metric=metric, shards=3, params={"vectors": "float32"})
    manifest = report.manifest
    generation = Store(report.path.parents[2]).open("pin", manifest.id)
    base = x / np.linalg.norm(x, axis=1, keepdims=True) if metric is Metric.COSINE else x
    xq = base[:5].copy()
    params = make_params(SEARCH_PARAMS[kind], manifest.default_search[kind])
    true_rows, _ = topk.exact_search(xq, base, 10, metric)
    overlap = 0
    names, values = [[] for _ in xq], [[] for _ in xq]
    for shard in generation.shards:
        rows = shard.rows()
        ids = rows.column("id").to_pylist()
        assert (shard_of(ids, 3) == int(shard.manifest.name[-5:])).all()
        assert all(c == f"c{int(i[1:]) % 7}" for i, c in zip(ids, rows.column("color").to_pylist(), strict=True))
        found = open_index(kind, shard.path).search(xq, 10, params)
        for q in range(len(xq)):
            real = found.rows[q] != NO_ROW
            names[q] += [ids[r] for r in found.rows[q][real]]
            values[q] += found.scores[q][real].tolist()
    for q in range(len(xq)):
        got, values_got = merge(np.array(names[q]), np.array(values[q], np.float32), 10)
        exact = topk.scores(xq[q : q + 1], base[[int(name[1:]) for name in got]], metric)[0]
        np.testing.assert_allclose(values_got, exact, rtol=1e-5, atol=1e-5)
        overlap += len(set(got) & {f"e{r}" for r in true_rows[q]})
    assert overlap >= 40, f"{kind} {metric}: {overlap} of the 50 true neighbours"
    assert manifest.rows == manifest.rows_in == 1_500
    assert manifest.space_id == "sp-test"
    assert {p.queries for p in manifest.frontier} == {20}


def test_int64_ids_npy_source_and_arrow_source_give_one_content(tmp_path, run):
    x = clustered(300, 16, seed=5, clusters=5, intrinsic=8)
    ids = np.arange(300, dtype=np.int64) * 7 - 50
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "ids.npy", ids)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 16)
    with ipc.new_file(tmp_path / "x.arrow", (t := pa.table({"id": ids, "embedding": flat})).schema) as sink:
        sink.write_table(t, max_chunksize=64)
    (tmp_path / "ids.txt").write_text("".join(f"n{i}\n" for i in ids))
    made = [
        run(tmp_path / "x.npy", ids=tmp_path / "ids.npy", space_id="a", shards=2),
        run(tmp_path / "x.arrow", space_id="a", shards=2),
    ]
    assert [r.manifest.id_type for r in made] == [IdType.INT64] * 2
    for name in ("shard-00000/vectors.npy", "shard-00001/vectors.npy"):
        assert made[0].manifest.files[name] == made[1].manifest.files[name]
    texts = run(tmp_path / "x.npy", ids=tmp_path / "ids.txt", space_id="a")
    rows = Store(tmp_path / "store").open("pin", texts.manifest.id).shards[0].rows()
    assert rows.column("id")[0].as_py() == "n-50"


def test_float16_lists_and_folders_of_files(tmp_path, run):
    x = clustered(200, 16, seed=6, clusters=5, intrinsic=8).astype(np.float16)
    (tmp_path / "parts").mkdir()
    for part in range(2):
        rows = [list(v) for v in x[part * 100 : part * 100 + 100]]
        t = pa.table({"id": [f"p{part}-{i}" for i in range(100)], "embedding": pa.array(rows, pa.list_(pa.float16()))})
        pq.write_table(t, tmp_path / "parts" / f"{part}.parquet")
    report = run(tmp_path / "parts", space_id="s")
    assert (report.manifest.rows, report.manifest.d) == (200, 16)


def test_auto_chooses_by_rows_per_shard(write, run):
    assert run(write(100)).manifest.shards[0].kind is IndexKind.FLAT


def test_an_identical_build_does_nothing_and_a_new_one_is_a_new_generation(write, run):
    source = write(100)
    first = run(source)
    again = run(source)
    assert first.built
    assert not again.built
    assert again.manifest.id == first.manifest.id
    other = run(source, seed=1)
    assert other.manifest.parent == first.manifest.id
    assert other.manifest.id.startswith("000002-")
    back = run(source)
    assert (back.built, back.live, back.manifest.id) == (False, True, first.manifest.id)


def test_no_publish_leaves_the_live_one_and_keep_removes_old_ones(write, run, tmp_path):
    source = write(100)
    first = run(source)
    staged = run(source, seed=1, publish=False)
    store = Store(tmp_path / "store")
    assert not staged.live
    assert store.current("pin") == first.manifest.id
    last = run(source, seed=2, keep=1)
    assert last.removed == [first.manifest.id, staged.manifest.id]
    assert store.generations("pin") == [last.manifest.id]


def test_a_second_build_of_the_same_entity_type_is_refused(write, run, tmp_path):
    source = write(100)
    run(source)
    with (tmp_path / "store/pin/build.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(FailedPrecondition, match=r"another build of 'pin' is at work .*\(process \d+\): wait"):
            run(source, seed=1)
    assert run(source, seed=1).built


def test_a_failed_build_resumes_where_it_stopped_and_trusts_no_changed_file(write, run, tmp_path, monkeypatch):
    source = write(600)
    real, built = add_stage.build_part, []

    def failing(vectors, out, *rest):
        if "00002" in str(vectors) and len(built) < 3:
            built.append(out.name)
            raise BuildFailed("stopped for the test")
        built.append(out.name)
        return real(vectors, out, *rest)

    monkeypatch.setattr(add_stage, "build_part", failing)
    with pytest.raises(BuildFailed, match="stopped for the test"):
        run(source, shards=4, kind="flat")
    staging = next((tmp_path / "store/pin/staging").iterdir())
    assert sorted(p.name for p in (staging / "records").glob("shard*"))
    changed = staging / "generation/shard-00000/vectors.npy"
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    done_before = {p.stem for p in (staging / "records").glob("shard*")} - {"shard-00000"}
    built.clear()
    built += ["", "", ""]
    report = run(source, shards=4, kind="flat")
    assert "shard-00000.tmp" in built, "a changed file was taken for a finished stage"
    assert not done_before & {name[: -len(".tmp")] for name in built if name}
    Store(tmp_path / "store").open("pin", report.manifest.id)
    assert not (tmp_path / "store/pin/staging").exists()


def test_shards_in_processes_equal_shards_in_this_process_and_measure_memory(write, run):
    source = write(400)
    here = run(source, kind="hnsw", shards=2).manifest
    processes = run(source, kind="hnsw", shards=2, workers=2, store=source.parent / "other").manifest
    names = [name for name in here.files if name.startswith("shard") and "json" not in name]
    assert {n: here.files[n] for n in names} == {n: processes.files[n] for n in names}
    for shard in processes.shards:
        assert shard.report["peak_memory_bytes"] >= shard.report["base_memory_bytes"] > 0


def test_the_recall_gate_stops_a_build_and_leaves_the_live_generation(write, run, tmp_path, monkeypatch):
    source = write(1_000)
    first = run(source)
    monkeypatch.setattr(verify, "IVFPQ_EFFORTS", ((1, 1),))
    with pytest.raises(BuildFailed, match=r"recall@100 is 0\.\d+ at .*, below the floor of 1\.00: build with more"):
        run(source, kind="ivfpq", min_recall=1.0, target_recall=1.0)
    assert Store(tmp_path / "store").current("pin") == first.manifest.id


def test_real_queries_are_used_and_named(write, run, tmp_path):
    queries = clustered(30, 16, seed=9, clusters=20, intrinsic=8)
    np.save(tmp_path / "q.npy", queries)
    manifest = run(write(300), queries=tmp_path / "q.npy").manifest
    assert manifest.query_source.startswith("20 queries from q.npy")
    with np.load(tmp_path / "store/pin/generations" / manifest.id / "canaries.npz") as canaries:
        assert canaries["queries"].shape == (30, 16)
        assert canaries["ids"].shape == canaries["scores"].shape == (30, 10)


def test_progress_names_every_stage(write, tmp_path):
    seen = []
    settings = build_module.BuildSettings(
        source=write(100), store=tmp_path / "store", entity_type="pin", workers=0, verify_queries=5
    )
    build_module.build(settings, progress=lambda *event: seen.append(event))
    assert list(dict.fromkeys(stage for stage, _, _ in seen)) == ["plan", "read", "train", "add", "verify", "publish"]
    assert all(done <= total for _, done, total in seen)
    assert json.loads(json.dumps(seen))


def test_few_rows_answer_what_there_is(write, run):
    manifest = run(write(3), shards=1).manifest
    assert manifest.rows == 3
    assert manifest.frontier[0].recall_at_100 == 1.0


def test_stagings_of_other_plans_are_swept(write, run, tmp_path):
    stale = tmp_path / "store/pin/staging/0123456789abcdef"
    stale.mkdir(parents=True)
    (tmp_path / "store/pin/generations").mkdir()
    (stale / "half").write_text("x")
    run(write(50))
    assert not Path(stale).exists()
