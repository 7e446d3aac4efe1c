"""The gate: equal data passes, and each way in which a generation goes wrong is told by its own finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_store import TinyGeneration, make_store, make_vectors

from bench.data import clustered
from index_builders.gate import GateLimits, counts, judge, make_limits
from index_builders.gate.ids import compare
from retrieval.errors import InvalidParams
from retrieval.store import Generation
from retrieval.store.manifest import Quarantine
from retrieval.types import IndexKind

N, D, SEED = 1_500, 16, 3
IDS = np.array([f"e{i:04d}" for i in range(N)], object)
COUNTRY = np.array(["rare" if i % 20 == 0 else f"c{i % 3}" for i in range(N)], object)
LIMITS = make_limits(queries=40, segment_column="country", min_segment_rows=20)


def data(metric: str = "cosine") -> np.ndarray:
    return make_vectors(N, D, seed=SEED, metric=metric)


def opened(made: TinyGeneration, **changed: object) -> Generation:
    return Generation(path=made.path, manifest=made.manifest.model_copy(update=changed))


def write(
    store: Path, x: np.ndarray, keep: np.ndarray | None = None, *, ids: np.ndarray = IDS, **more: object
) -> TinyGeneration:
    """A generation of the rows `keep` in two flat shards, with their countries."""
    keep = np.arange(len(ids)) if keep is None else keep
    columns = {"country": pa.array(COUNTRY[keep])}
    rows = {"vectors": x[keep], "ids": ids[keep], "columns": columns}
    return make_store(store, len(keep), D, 2, "string", **{**rows, "publish": False, **more})


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return opened(write(tmp_path_factory.mktemp("parent"), data()))


def limits_broken(old: Generation | None, new: Generation, limits: GateLimits = LIMITS) -> set[str]:
    report = judge(old, new, limits)
    assert report.passed == (not report.findings)
    assert all(finding.sentence and finding.look_at for finding in report.findings)
    return {finding.limit for finding in report.findings}


def test_equal_data_passes_and_every_figure_says_so(parent, tmp_path):
    report = judge(parent, opened(write(tmp_path, data(), seed=1)), LIMITS)
    assert report.findings == []
    assert report.passed
    assert {each.overlap_at_10 for each in report.comparisons} == {1.0}
    assert {each.shift_mean for each in report.comparisons} == {0.0}
    assert {each.recall_at_100 for each in report.recall} == {1.0}
    assert (report.ids.kept, report.ids.lost, report.ids.new) == (N, 0, 0)
    assert [each.group for each in report.recall][:2] == ["items", "parent's items"]
    assert {each.segment: (each.old, each.new) for each in report.segments}["rare"] == (75, 75)


def test_lost_ids(parent, tmp_path):
    keep = np.flatnonzero(np.arange(N) % 10 != 3)
    report = judge(parent, opened(write(tmp_path, data(), keep)), LIMITS)
    assert {finding.limit for finding in report.findings} == {"max_rows_lost", "max_lost_ids"}
    assert report.ids.lost_examples == ["e0003", "e0013", "e0023", "e0033", "e0043"]
    (told,) = (finding for finding in report.findings if finding.limit == "max_lost_ids")
    assert told.sentence == (
        "150 of the parent's 1500 ids are gone (e0003, e0013, e0023, e0033, e0043, …), 10.00% where 5.00% is allowed"
    )


def test_ids_against_the_wrong_vectors(parent, tmp_path):
    shuffled = np.random.default_rng(5).permutation(data())
    report = judge(parent, opened(write(tmp_path, shuffled)), make_limits(queries=40))
    # nothing of the new generation by itself tells: its recall is whole, every id and every vector is there
    assert {finding.limit for finding in report.findings} == {"min_overlap_at_10", "min_overlap_at_100"}
    assert max(each.overlap_at_10 for each in report.comparisons) < 0.1
    assert {each.recall_at_10 for each in report.recall} == {1.0}


def test_scaled_vectors(tmp_path):
    x = data("ip")
    old, new = (opened(write(tmp_path, factor * x, metric="ip")) for factor in (1, 2))
    assert limits_broken(old, new) == {"max_norm_shift", "max_score_shift"}
    assert limits_broken(old, old) == set()


def test_vectors_that_are_not_of_unit_length_under_cosine(tmp_path):
    made = write(tmp_path, data())
    file = made.path / "shard-00000" / "vectors.npy"
    np.save(file, np.load(file) * np.float16(1.5))
    assert "max_off_unit" in limits_broken(None, opened(made))


def test_repeated_vectors(parent, tmp_path):
    x = data()
    x[N // 2 :] = x[0]
    broken = limits_broken(parent, opened(write(tmp_path, x)))
    assert "max_same_vectors_rise" in broken
    x[5:] = x[0]
    assert "max_same_vectors" in limits_broken(None, opened(write(tmp_path, x)))


def test_half_of_one_segment_gone(parent, tmp_path):
    rare = np.flatnonzero(COUNTRY == "rare")
    keep = np.setdiff1d(np.arange(N), rare[::2])
    new = opened(write(tmp_path, data(), keep))
    (finding,) = judge(parent, new, LIMITS).findings
    assert finding.limit == "max_segment_lost"
    assert finding.sentence.startswith("segment country = rare has 37 rows against the parent's 75, 50.7% fewer")
    # 2.5 % of all rows: without the segments nobody sees it
    assert limits_broken(parent, new, make_limits(queries=40)) == set()


def test_quarantine_up(parent, tmp_path):
    refused = Quarantine(counts={"NaN": 60, "zero norm": 15})
    new = opened(write(tmp_path, data()), quarantine=refused, rows_in=N + 75)
    report = judge(parent, new, LIMITS)
    assert {finding.limit for finding in report.findings} == {"max_quarantined", "max_quarantine_rise"}
    assert "75 of 1575 source rows are refused (60 NaN, 15 zero norm), 4.76%" in report.why()


def test_rows_gained_and_new_ids(parent, tmp_path):
    ids = np.array([f"f{i:04d}" for i in range(2 * N)], object)
    made = make_store(tmp_path, 2 * N, D, 2, "string", ids=ids, vectors=np.tile(data(), (2, 1)), publish=False)
    report = judge(parent, opened(made), make_limits(queries=20))
    assert {"max_rows_gained", "max_new_ids", "max_lost_ids"} <= {finding.limit for finding in report.findings}


def test_unequal_shards(parent, tmp_path):
    made = write(tmp_path, data())
    first, second = made.manifest.shards
    shards = [first.model_copy(update={"rows": 1_300}), second.model_copy(update={"rows": 200})]
    tallied = {"new": counts.tally(made.manifest.model_copy(update={"shards": shards}))}
    (finding,) = counts.judge(tallied, [], LIMITS)
    assert finding.limit == "max_shard_ratio"
    assert "the largest shard has 1300 rows, 1.73 times the mean" in finding.sentence


def test_imbalanced_lists_and_an_effort_that_finds_little(tmp_path, run):
    even = clustered(1_500, 16, seed=3, clusters=20, intrinsic=8)
    crowd = even.copy()
    noise = np.random.default_rng(0).standard_normal((1_300, 16)).astype(np.float32)
    crowd[:1_300] = crowd[0] + 1e-5 * noise  # under a thousandth of the distance between lists
    limits = make_limits(queries=40, max_longest_list=4)
    made = {}
    for name, x in (("even", even), ("crowd", crowd)):
        np.save(tmp_path / f"{name}.npy", x)
        (tmp_path / "ids.txt").write_text("".join(f"e{i}\n" for i in range(len(x))))
        given = {"ids": tmp_path / "ids.txt", "space_id": "s", "min_recall": 0}
        report = run(tmp_path / f"{name}.npy", kind="ivfpq", params={"nlist": 19}, **given)
        made[name] = Generation(path=report.path, manifest=report.manifest)
    assert limits_broken(None, made["even"], limits) == set()
    assert {"max_longest_list", "max_list_imbalance"} <= limits_broken(None, made["crowd"], limits)
    lazy = made["even"].manifest.model_copy(update={"default_search": {IndexKind.IVFPQ: {"nprobe": 1, "rescore": 1}}})
    found = judge(None, Generation(path=made["even"].path, manifest=lazy), limits)
    assert {"min_recall_at_100"} <= {finding.limit for finding in found.findings}


def test_another_space_is_said_and_the_rest_judged(parent, tmp_path):
    keep = np.flatnonzero(np.arange(N) % 10 != 3)
    new = opened(write(tmp_path, np.random.default_rng(5).permutation(data()), keep, space_id="other"))
    report = judge(parent, new, LIMITS)
    assert report.skipped == [
        "answers, scores and norms are not compared: the space changes from tiny-space to other",
        "no canaries are replayed: the new generation holds none",
    ]
    assert report.comparisons == []
    assert {finding.limit for finding in report.findings} == {"max_rows_lost", "max_lost_ids"}


def test_another_id_type_is_said(parent, tmp_path):
    made = make_store(tmp_path, N, D, 2, "int64", vectors=data(), ids=np.arange(N), publish=False)
    report = judge(parent, opened(made), make_limits(queries=20))
    assert "ids and answers are not compared: the ids change from string to int64" in report.skipped
    assert report.ids is None
    assert report.passed


def test_a_first_generation_and_an_absent_column(parent):
    report = judge(None, parent, make_limits(queries=20, segment_column="absent"))
    assert report.passed
    assert (report.old, report.ids, report.comparisons) == (None, None, [])
    assert "no segments: no shard has an attribute column 'absent'" in report.skipped


def test_a_segment_column_of_numbers_and_one_of_lists(tmp_path):
    columns = {"year": pa.array([2020 + i % 2 if i else None for i in range(N)]), "tags": pa.array([["a"]] * N)}
    new = opened(write(tmp_path, data(), columns=columns))
    report = judge(None, new, make_limits(queries=20, segment_column="year"))
    assert {each.segment: each.new for each in report.segments} == {"2020": 749, "2021": 750, "none": 1}
    with pytest.raises(InvalidParams, match=r"segment column has type list<.*>: choose an attribute with one value"):
        judge(None, new, make_limits(segment_column="tags"))


def test_more_segments_than_are_judged_one_by_one_are_judged_together(parent):
    report = judge(parent, parent, make_limits(queries=40, segment_column="country", max_segments=2))
    assert [each.segment for each in report.segments] == ["c0", "c1", "other values"]
    assert sum(each.new for each in report.segments) == N
    groups = [each for each in report.recall if each.group.startswith("country = ")]
    assert [each.group for each in groups][-1] == "country = other values"
    assert sum(each.queries for each in groups) == 80


def test_real_queries_are_a_kind_of_their_own(parent, tmp_path):
    np.save(tmp_path / "q.npy", data()[:30])
    report = judge(parent, parent, LIMITS, tmp_path / "q.npy")
    assert {each.group: each.queries for each in report.comparisons}["real"] == 30


def test_another_number_of_shards_compares_all_ids(parent, tmp_path):
    columns = {"country": pa.array(COUNTRY)}
    made = make_store(tmp_path, N, D, 3, "string", vectors=data(), ids=IDS, columns=columns, publish=False)
    assert limits_broken(parent, opened(made)) == set()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sets(st.integers(0, 30), min_size=4),
    st.sets(st.integers(0, 30), min_size=4),
    st.integers(1, 2),
    st.sampled_from(["string", "int64"]),
)
def test_lost_and_new_ids_are_set_differences(tmp_path_factory, before, now, shards, id_type):
    store = tmp_path_factory.mktemp("ids")
    made = []
    for numbers, parts in ((sorted(before), 2), (sorted(now), shards)):
        ids = np.array([f"e{i:02d}" for i in numbers], object) if id_type == "string" else np.array(numbers, np.int64)
        made.append(opened(make_store(store, len(ids), 4, parts, id_type, ids=ids, publish=False)))
    found = compare(*made)
    assert (found.kept, found.lost, found.new) == (len(before & now), len(before - now), len(now - before))
    name = (lambda i: f"e{i:02d}") if id_type == "string" else str
    assert found.lost_examples == [name(i) for i in sorted(before - now)[:5]]
    assert found.new_examples == [name(i) for i in sorted(now - before)[:5]]
