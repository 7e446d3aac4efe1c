"""Every named bad input of a build: one sentence, the right error, nothing published."""

import resource
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data import clustered
from index_builders import spool as spool_module
from retrieval.errors import (
    BuildFailed,
    InvalidArgument,
    InvalidData,
    InvalidParams,
    MissingDependency,
    SpaceMismatch,
    StoreError,
)
from retrieval.indexes import ivfpq as ivfpq_reader
from retrieval.store import Store


def test_bad_rows_are_quarantined_with_counts_and_examples(tmp_path, run):
    x = [list(v) for v in clustered(1_000, 8, seed=1, clusters=5, intrinsic=4)]
    ids = [f"e{i}" for i in range(1_000)]
    x[1] = None
    x[2] = x[2][:7]
    x[3] = [float("nan"), *x[3][1:]]
    x[4] = [float("inf"), *x[4][1:]]
    x[5] = [0.0] * 8
    x[6] = [3e38] * 8
    ids[7], ids[8], ids[9] = None, "", "e10"
    x[11] = [None, *x[11][1:]]
    pq.write_table(pa.table({"id": ids, "embedding": pa.array(x, pa.list_(pa.float32()))}), tmp_path / "s.parquet")
    manifest = run(tmp_path / "s.parquet", space_id="s", shards=2, max_quarantined=0.02).manifest
    assert manifest.quarantine.counts == {
        "null embedding": 1,
        "wrong dimension": 1,
        "NaN": 2,
        "infinite": 1,
        "zero norm": 1,
        "out of range": 1,
        "null id": 1,
        "empty id": 1,
        "duplicate id": 1,
    }
    assert manifest.quarantine.examples["NaN"] == ["e3", "e11"]
    assert manifest.quarantine.examples["null id"] == ["row 7"]
    assert manifest.quarantine.examples["duplicate id"] == ["e10"]
    assert (manifest.rows_in, manifest.rows) == (1_000, 990)
    ids = [i for s in Store(tmp_path / "store").open("pin", manifest.id).shards for i in s.rows()["id"].to_pylist()]
    assert len(set(ids)) == 990
    with pytest.raises(
        BuildFailed, match=r"10 of 1000 rows are unusable, 1\.00% where 0\.90% is allowed: .*2 NaN \(e3, e11\)"
    ):
        run(tmp_path / "s.parquet", space_id="s", max_quarantined=0.009)


def test_the_default_gate_is_one_per_cent(write, run):
    x = clustered(200, 8, seed=1, clusters=5, intrinsic=4)
    x[:3] = np.nan
    with pytest.raises(BuildFailed, match=r"3 of 200 rows are unusable, 1\.50% where 1\.00% is allowed"):
        run(write(x))


def test_files_of_a_minority_dimension_are_quarantined(tmp_path, run):
    for name, n, d in (("a", 300, 8), ("b", 2, 4)):
        x = clustered(n, d, seed=1, clusters=2, intrinsic=4)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d)
        (tmp_path / "src").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({"id": [f"{name}{i}" for i in range(n)], "embedding": flat}), tmp_path / f"src/{name}.parquet"
        )
    manifest = run(tmp_path / "src", space_id="s").manifest
    assert manifest.d == 8
    assert manifest.quarantine.counts == {"wrong dimension": 2}


def test_values_that_float16_cannot_hold_are_quarantined(write, run):
    x = clustered(200, 8, seed=1, clusters=5, intrinsic=4)
    x[0] *= 1e6
    assert run(write(x), metric="ip").manifest.quarantine.counts == {"out of range": 1}
    assert run(write(x), metric="ip", params={"vectors": "float32"}).manifest.quarantine.counts == {}


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"embedding_column": "vector"}, InvalidData, r"has no column 'vector'; it has: id, embedding"),
        ({"id_column": "key"}, InvalidData, r"has no column 'key'"),
        ({"embedding_column": "id", "id_column": "embedding"}, InvalidData, r"column 'id' .* has type string"),
        ({"space_id": "other"}, SpaceMismatch, r"holds embeddings of space sp-test, not of other: leave"),
        ({"shards": 60}, InvalidData, r"50 rows cannot fill 60 shards: use far fewer --shards"),
        ({"shards": 45}, InvalidData, r"shard \d+ of 45 got none of the 50 rows, .*: use far fewer --shards"),
        ({"shards": 0}, InvalidParams, r"shards = 0 is not acceptable: .*greater than or equal to 1"),
        ({"shards": 1_000}, InvalidParams, r"shards = 1000 is not acceptable: .*less than or equal to 256"),
        ({"metric": "manhattan"}, InvalidParams, r"metric = 'manhattan' is not acceptable"),
        ({"kind": "tree"}, InvalidParams, r"kind = 'tree' is not acceptable"),
        ({"entity_type": "Pin!"}, InvalidArgument, r"entity type 'Pin!' is not acceptable"),
        ({"kind": "flat", "params": {"m": 8}}, InvalidParams, r"a flat build has no parameter 'm'"),
        ({"kind": "hnsw", "params": {"m": 1}}, InvalidParams, r"m = 1 is not acceptable: .*greater than or equal to 4"),
        ({"kind": "ivfpq"}, InvalidData, r"50 training rows are too few for IVF-PQ with 4-bit codes: it takes 624"),
        ({"max_quarantined": 2}, InvalidParams, r"max_quarantined = 2 is not acceptable"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(write, run, tmp_path, change, error, sentence):
    with pytest.raises(error, match=sentence):
        run(write(50), **change)
    assert not list(tmp_path.glob("store/pin/generations/*"))


def test_ivfpq_parameters_that_do_not_fit(write, run):
    source = write(700)
    with pytest.raises(InvalidParams, match=r"pq_dims = 3 does not divide the 16 dimensions; use a divisor"):
        run(source, kind="ivfpq", params={"pq_dims": 3})
    with pytest.raises(InvalidData, match=r"700 training rows are too few for IVF-PQ with 100 lists: it takes 3900"):
        run(source, kind="ivfpq", params={"nlist": 100})


def test_ivfpq_without_faiss(write, run, monkeypatch):
    from index_builders import ivfpq

    monkeypatch.setattr(ivfpq, "faiss", None)
    with pytest.raises(MissingDependency, match=r"IVF-PQ needs faiss, .*pip install 'retrieval\[cpu\]'"):
        run(write(50), kind="ivfpq")
    monkeypatch.setattr(ivfpq_reader, "faiss", None)
    with pytest.raises(MissingDependency, match=r"needs faiss: pip install 'retrieval\[cpu\]'"):
        ivfpq_reader.IvfpqIndex.open(write(1).parent)


def test_sources_that_cannot_be_read(tmp_path, run, write):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 this is not it")
    (tmp_path / "bad.arrow").write_bytes(b"nor this")
    (tmp_path / "bad.npy").write_bytes(b"nor that")
    (tmp_path / "other.csv").write_text("id,embedding\n")
    (tmp_path / "none").mkdir()
    x = clustered(5, 8, seed=1, clusters=2, intrinsic=4)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "x64.npy", x.astype(np.float64))
    np.save(tmp_path / "ids.npy", np.arange(4))
    empty, nothing = (
        write(np.empty((0, 8), np.float32), ids=pa.array([], pa.string()), name="empty.parquet"),
        tmp_path / "no",
    )
    for path, extra, sentence in [
        (tmp_path / "bad.parquet", {}, r"cannot read .*bad\.parquet"),
        (tmp_path / "bad.arrow", {}, r"cannot read .*bad\.arrow"),
        (tmp_path / "bad.npy", {"ids": tmp_path / "ids.npy"}, r"cannot read .*bad\.npy as \.npy"),
        (tmp_path / "other.csv", {}, r"other\.csv is of no known kind"),
        (tmp_path / "none", {}, r"none holds no \.parquet or \.arrow file"),
        (tmp_path / "x.npy", {}, r"holds vectors only: give their ids with --ids"),
        (tmp_path / "x.npy", {"ids": tmp_path / "ids.npy"}, r"ids\.npy has 4 ids for the 5 vectors"),
        (tmp_path / "x64.npy", {"ids": tmp_path / "ids.npy"}, r"holds float64 of shape \[5, 8\]; wanted float32"),
        (write(5), {"ids": tmp_path / "ids.npy"}, r"--ids goes with a \.npy source"),
        (empty, {}, r"empty\.parquet has no rows: there is nothing to build"),
        (nothing, {}, r"no does not exist: give a \.parquet"),
    ]:
        space = {} if path.name == "source.parquet" else {"space_id": "s"}
        with pytest.raises(InvalidData, match=sentence):
            run(path, **space, **extra)


def test_a_source_that_does_not_name_its_space(tmp_path, run, write):
    pq.write_table(pq.read_table(write(5)).replace_schema_metadata(None), tmp_path / "bare.parquet")
    with pytest.raises(InvalidArgument, match=r"does not say of which space its embeddings are: name it with"):
        run(tmp_path / "bare.parquet")


def test_a_truncated_parquet_page_is_named(write, run):
    source = write(2_000)
    data = bytearray(source.read_bytes())
    data[200:4_000] = bytes(3_800)
    source.write_bytes(data)
    with pytest.raises((InvalidData, BuildFailed), match=r"cannot read .*source\.parquet|unusable"):
        run(source)


def test_everything_quarantined(write, run):
    with pytest.raises(BuildFailed, match=r"all 20 rows are unusable"):
        run(write(np.zeros((20, 8), np.float32)), max_quarantined=1)


def test_store_paths_that_are_no_store(write, run, tmp_path):
    source = write(20)
    (tmp_path / "file").write_text("x")
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "letter.txt").write_text("x")
    with pytest.raises(StoreError, match=r"cannot create store .*file: File exists"):
        run(source, store=tmp_path / "file")
    with pytest.raises(StoreError, match=r"things is not a store: it holds files but no"):
        run(source, store=tmp_path / "things")
    assert [p.name for p in (tmp_path / "things").iterdir()] == ["letter.txt"]


def test_no_disk_space_is_one_sentence_and_the_next_run_resumes(write, run, tmp_path):
    first = run(write(50, name="old.parquet"))
    source = write(20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot write .*File too large; free some space there or build into"):
            run(source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert Store(tmp_path / "store").current("pin") == first.manifest.id
    assert run(source, kind="flat").live


def test_a_full_disk_while_spooling(write, run, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool_module._ShardSpool, "append", full)
    with pytest.raises(StoreError, match=r"cannot write .*No space left on device; free some space"):
        run(write(50))


def test_a_source_that_changes_between_plan_and_read(write, run, monkeypatch):
    from index_builders.source import TableSource

    real = TableSource.batches

    def fewer(self):
        for batch in real(self):
            yield type(batch)(
                ids=batch.ids[:-1],
                vectors=batch.vectors[:-1],
                reasons=batch.reasons[:-1],
                attributes=batch.attributes[:-1],
            )

    monkeypatch.setattr(TableSource, "batches", fewer)
    with pytest.raises(BuildFailed, match=r"the source had 50 rows when planned and 49 when read"):
        run(write(50))
