"""Files, generators, caches and exact answers of data sets, good and bad."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from bench.recall_latency.data import DataSet, digest_of, make_data
from bench.recall_latency.truth import true_scores
from bench.recall_latency.vector_files import read_hdf5, read_vecs
from retrieval.errors import DamagedData, InvalidData, InvalidParams, MissingDependency


def write_vecs(path: Path, x: np.ndarray) -> Path:
    dims = np.full((len(x), 1), x.shape[1], "<i4").view(np.uint8)
    path.write_bytes(np.hstack([dims, np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)]).tobytes())
    return path


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((60, 6), dtype=np.float32)


@pytest.mark.parametrize(("ending", "dtype"), [(".fvecs", np.float32), (".bvecs", np.uint8), (".ivecs", np.int32)])
def test_vectors_are_read_as_they_were_written(tmp_path: Path, ending: str, dtype: type) -> None:
    x = np.random.default_rng(1).integers(0, 200, (7, 5)).astype(dtype)
    path = write_vecs(tmp_path / f"x{ending}", x)
    assert read_vecs(path).tolist() == x.tolist()
    assert read_vecs(path, 3).tolist() == x[:3].tolist()


def test_a_truncated_file_is_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    path = write_vecs(tmp_path / "x.fvecs", vectors)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InvalidData, match=r"truncated: 1677 bytes are no multiple of the 28 bytes of a row of 6"):
        read_vecs(path)
    path.write_bytes(b"ab")
    with pytest.raises(InvalidData, match="has 2 bytes"):
        read_vecs(path)
    with pytest.raises(InvalidData, match="cannot be read"):
        read_vecs(tmp_path / "absent.fvecs")


def test_rows_of_two_dimensions_are_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    path = write_vecs(tmp_path / "x.fvecs", vectors)
    data = bytearray(path.read_bytes())
    data[28:32] = np.array([5], "<i4").tobytes()
    path.write_bytes(data)
    with pytest.raises(InvalidData, match=r"row 1 of .* has 5 dimensions and row 0 has 6"):
        read_vecs(path)


def test_base_and_queries_must_agree_in_dimension(tmp_path: Path, vectors: np.ndarray) -> None:
    base = write_vecs(tmp_path / "base.fvecs", vectors)
    queries = write_vecs(tmp_path / "queries.fvecs", vectors[:, :4])
    with pytest.raises(InvalidData, match=r"queries of .* have 4 dimensions and its base 6"):
        make_data(f"{base}:{queries}", tmp_path / "work", queries=10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_row_without_a_direction_is_named(tmp_path: Path, vectors: np.ndarray, bad: float) -> None:
    vectors[17] = bad
    base = write_vecs(tmp_path / "base.fvecs", vectors)
    with pytest.raises(InvalidData, match=r"row 17 of the base .* is zero or not finite"):
        make_data(f"{base}:{base}", tmp_path / "work", queries=10)


@pytest.mark.parametrize(
    ("order", "sentence"),
    [
        ("clustered:100", "write clustered:ROWSxDIM"),
        ("clustered:0x8", "write clustered:ROWSxDIM"),
        ("ood:100x8,sed=3", "write ood:ROWSxDIM"),
        ("clustered:100x8,seed=-1", "write clustered:ROWSxDIM"),
        ("duplicates:100x8,seed", "after a comma comes NAME=VALUE"),
        ("nothing", "write one of clustered"),
        ("x.fvecs", "write BASE.fvecs:QUERIES.fvecs"),
        ("catalogue:pin", "a checkpoint is missing"),
        ("catalogue:pin:tower,rows=5", "only texts: takes ,rows=NUMBER"),
        ("texts:x.parquet:tower,rows=many", "only texts: takes ,rows=NUMBER"),
    ],
)
def test_an_order_that_is_none_is_refused(tmp_path: Path, order: str, sentence: str) -> None:
    with pytest.raises(InvalidParams, match=sentence):
        make_data(order, tmp_path, queries=5)
    assert not (tmp_path / "data").exists()


def test_hdf5_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.hdf5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependency, match=r"pip install 'retrieval\[peers\]'"):
        read_hdf5(tmp_path / "x.hdf5", limit_queries=3)


def test_hdf5_of_ann_benchmarks(tmp_path: Path, vectors: np.ndarray) -> None:
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["train"] = vectors
    with pytest.raises(InvalidData, match="has no data set 'test'"):
        make_data(str(path), tmp_path / "work", queries=4)
    with h5py.File(path, "a") as file:
        file["test"] = vectors[:9]
    data = make_data(str(path), tmp_path / "work", queries=4)
    assert (data.n, data.d, data.q) == (60, 6, 4)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidData, match="cannot be read as HDF5"):
        read_hdf5(path, limit_queries=3)


def test_generated_sets_are_seeded_unit_and_what_they_say(tmp_path: Path) -> None:
    def made(order: str) -> DataSet:
        return make_data(order, tmp_path, queries=20)

    plain, ood, copies = made("clustered:600x16"), made("ood:600x16"), made("duplicates:600x16")
    for data in (plain, ood, copies):
        assert np.allclose(np.linalg.norm(data.base(), axis=1), 1, atol=1e-5)
        assert np.allclose(np.linalg.norm(data.queries(), axis=1), 1, atol=1e-5)
    assert made("clustered:600x16") == plain
    assert made("clustered:600x16,seed=2").digest != plain.digest
    # queries from elsewhere lie further from their nearest rows
    near = [true_scores(data, 10, tmp_path)[:, 0].mean() for data in (plain, ood)]
    assert near[1] < near[0] - 0.03  # 0.833 and 0.781
    assert len(np.unique(copies.base(), axis=0)) == 600 - 180


def test_a_cached_set_whose_bytes_changed_is_refused(tmp_path: Path) -> None:
    data = make_data("clustered:50x8", tmp_path, queries=5)
    x = np.load(data.folder / "xb.npy")
    x[3, 3] += 1
    np.save(data.folder / "xb.npy", x)
    with pytest.raises(DamagedData, match=r"are not those of its data\.json"):
        make_data("clustered:50x8", tmp_path, queries=5)


def test_exact_answers_of_other_data_are_refused(tmp_path: Path) -> None:
    one = make_data("clustered:50x8", tmp_path, queries=5)
    other = make_data("clustered:50x8,seed=2", tmp_path, queries=5)
    true = true_scores(one, 7, tmp_path)
    assert true.shape == (5, 7)
    [path] = (tmp_path / "truth").iterdir()
    assert one.digest[:16] in path.name
    path.rename(path.with_name(f"{other.name}-{other.digest[:16]}-k7.npz"))
    with pytest.raises(DamagedData, match=f"holds the exact answers of data {one.digest[:16]}"):
        true_scores(other, 7, tmp_path)


def test_damaged_exact_answers_are_refused(tmp_path: Path) -> None:
    data = make_data("clustered:50x8", tmp_path, queries=5)
    true_scores(data, 7, tmp_path)
    [path] = (tmp_path / "truth").iterdir()
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(DamagedData, match="cannot be read as exact answers"):
        true_scores(data, 7, tmp_path)


def test_a_publishers_ground_truth_is_held_against_ours(tmp_path: Path, vectors: np.ndarray) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    base, queries = write_vecs(tmp_path / "b.fvecs", unit), write_vecs(tmp_path / "q.fvecs", unit[:8])
    nearest = np.argsort(-(unit[:8] @ unit.T), axis=1)[:, :5].astype(np.int32)
    good = write_vecs(tmp_path / "good.ivecs", nearest)
    data = make_data(f"{base}:{queries}:{good}", tmp_path / "work", queries=8)
    assert true_scores(data, 5, tmp_path / "work").shape == (8, 5)
    bad = write_vecs(tmp_path / "bad.ivecs", (nearest + 1) % 60)
    data = make_data(f"{base}:{queries}:{bad}", tmp_path / "work", queries=8)
    with pytest.raises(
        InvalidData, match=r"bad\.ivecs has the ground truth of other data, or not by cosine: .* leave it out"
    ):
        true_scores(data, 5, tmp_path / "work")


def test_the_ground_truth_of_an_hdf5_file_is_held_against_ours_where_it_is_by_cosine(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argsort(-(unit[:8] @ unit.T), axis=1)[:, :5]
    for name, rows, distance in (("good", nearest, "angular"), ("l2", nearest + 1, "euclidean")):
        data = make_data(str(write_hdf5(tmp_path / f"{name}.hdf5", vectors, rows, distance)), tmp_path, queries=6)
        assert true_scores(data, 5, tmp_path).shape == (6, 5)
    bad = write_hdf5(tmp_path / "bad.hdf5", vectors, (nearest + 1) % 60, "angular")
    data = make_data(str(bad), tmp_path, queries=6)
    with pytest.raises(
        InvalidData, match=r"bad\.hdf5 has the ground truth of other data, or not by cosine: .* fetch it again"
    ):
        true_scores(data, 5, tmp_path)


def write_hdf5(path: Path, vectors: np.ndarray, neighbors: np.ndarray, distance: str) -> Path:
    with h5py.File(path, "w") as file:
        file["train"], file["test"], file["neighbors"] = vectors, vectors[:8], neighbors
        file.attrs["distance"] = distance
    return path


def test_the_digest_sees_shape_and_bytes(vectors: np.ndarray) -> None:
    one = digest_of(vectors, vectors[:3])
    assert one == digest_of(vectors.copy(), vectors[:3])
    assert one != digest_of(vectors.reshape(30, 12), vectors[:3])
    assert one != digest_of(vectors, vectors[:4])


def test_a_file_that_changed_is_read_again(tmp_path: Path, vectors: np.ndarray) -> None:
    base = write_vecs(tmp_path / "b.fvecs", vectors)
    one = make_data(f"{base}:{base}", tmp_path / "work", queries=8)
    write_vecs(base, vectors[::-1])
    assert make_data(f"{base}:{base}", tmp_path / "work", queries=8).digest != one.digest
