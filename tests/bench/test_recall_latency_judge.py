"""Recall from ids: ties, duplicates, unknown and missing answers, and points made of rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.recall_latency.figures import best_at, frontier, points_of
from bench.recall_latency.judge import judge
from bench.recall_latency.rows import of_one_setting
from bench.recall_latency.tables import facts, fault_table, panel_table, verdict
from retrieval import topk
from retrieval.topk import exact_search, normalise
from retrieval.types import Metric


def small(seed: int, n: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    xb = topk.normalise(rng.standard_normal((n, 8), dtype=np.float32))
    xb[:copies] = xb[0]
    return xb, topk.normalise(rng.standard_normal((5, 8), dtype=np.float32))


@given(seed=st.integers(0, 1_000), k=st.integers(1, 12), copies=st.integers(0, 20), wrong=st.integers(0, 12))
def test_recall_is_that_of_topk_for_honest_answers(seed: int, k: int, copies: int, wrong: int) -> None:
    xb, xq = small(seed, 40, copies)
    rows, true = topk.exact_search(xq, xb, k, Metric.COSINE)
    ids = rows.astype(np.int64)
    # some answers are replaced by the furthest rows, all distinct
    far, _ = topk.exact_search(-xq, xb, k, Metric.COSINE)
    for line, other in zip(ids, far, strict=True):
        line[: min(wrong, k)] = [row for row in other if row not in line[min(wrong, k) :]][: min(wrong, k)] or -1
    found = np.where(ids >= 0, np.einsum("qkd,qd->qk", xb[ids], xq), -np.inf).astype(np.float32)
    judged = judge(xb, xq, ids, true)
    if judged.duplicates == 0:
        assert abs(float(judged.recall.mean()) - topk.recall(found, true)) < 1e-6
    assert judged.unknown == 0


def test_rows_that_tie_with_the_last_true_one_count() -> None:
    xb, xq = small(3, 40, 20)
    xq[0] = xb[0]  # its twenty nearest are all equal
    _, true = topk.exact_search(xq, xb, 5, Metric.COSINE)
    others = np.array([[15, 16, 17, 18, 19]])
    assert judge(xb, xq[:1], others, true[:1]).recall.tolist() == [1.0]


def test_an_id_returned_twice_counts_once_and_unknown_ids_do_not_count() -> None:
    xb, xq = small(1, 40, 0)
    rows, true = topk.exact_search(xq, xb, 4, Metric.COSINE)
    ids = rows.astype(np.int64)
    ids[:, 1] = ids[:, 0]
    ids[:, 2] = (40, -7, 1_000, 2**40, 40)
    ids[:, 3] = -1
    judged = judge(xb, xq, ids, true)
    assert judged.recall.tolist() == [0.25] * 5
    assert (judged.duplicates, judged.unknown, judged.missing) == (5, 5, 15)


def test_fewer_rows_than_k_are_no_missing_answers() -> None:
    xb, xq = small(2, 3, 0)
    rows, true = topk.exact_search(xq, xb, 10, Metric.COSINE)
    judged = judge(xb, xq, rows.astype(np.int64), true[:, :3])
    assert judged.missing == 0
    assert judged.recall.tolist() == [1.0] * 5


def row(engine: str, ef: int, recall: float, us: float, **other: object) -> dict[str, object]:
    return {
        "data": "set", "k": 10, "mode": "single", "threads": 1, "engine": engine, "build": "{}",
        "effort": f'{{"ef": {ef}}}', "kind": "ours" if engine == "hnsw" else "library", "reason": "",
        "latency_ns": [int(us * 1e3)] * 4, "recall": [recall] * 4, "queries": 4, "missing": 0, "duplicates": 0,
        "unknown": 0, "repeat": 0, "cpu_share": 1.0, **other,
    }  # fmt: skip


def test_a_point_is_the_median_of_repeats_with_their_spread() -> None:
    rows = [row("hnsw", 20, 0.96, us, repeat=number) for number, us in enumerate((30.0, 10.0, 11.0))]
    [point] = points_of(rows)
    assert (point.us, point.low, point.high, point.repeats) == (11.0, 10.0, 30.0, 3)


def test_rows_that_only_nearly_tie_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    xb = normalise(1 + np.float32(0.003) * rng.standard_normal((3_000, 64), dtype=np.float32))
    xq = normalise(1 + np.float32(0.003) * rng.standard_normal((10, 64), dtype=np.float32))
    rows, true = exact_search(xq, xb, 10, Metric.COSINE)
    assert judge(xb, xq, rows.astype(np.int64), true).recall.mean() == 1
    others = rng.integers(3_000, size=(10, 10))
    assert judge(xb, xq, others, true).recall.mean() < 0.3


def test_repeats_of_other_settings_are_left_out() -> None:
    rows = [row("hnsw", 20, 0.96, 50.0, repeat=0, settings_key="new")]
    rows += [row("hnsw", 20, 0.96, 10.0, repeat=number, settings_key="old") for number in (1, 2)]
    rows += [row("peer", 7, 0.97, 25.0, repeat=number, settings_key="other") for number in (0, 1)]
    kept = of_one_setting(rows)
    assert [(each["engine"], each["repeat"]) for each in kept] == [("hnsw", 0), ("peer", 0), ("peer", 1)]


def test_a_recall_of_fewer_queries_says_so() -> None:
    few = row("slow", 9, 1.0, 90.0, queries=2)
    lines = {line[0]: line for line in panel_table(points_of([row("hnsw", 20, 0.96, 50.0), few])).lines}
    assert (lines["hnsw"][3], lines["slow"][3]) == ("0.960", "1.000 of 2 queries")


def test_a_recall_that_is_the_target_reaches_it() -> None:
    kept = float(np.float32(0.9))  # as rows keep it, a little below
    assert kept < 0.9
    assert best_at(points_of([row("hnsw", 20, kept, 50.0)]), 0.9)["hnsw", "{}"].us == 50.0
    assert not best_at(points_of([row("hnsw", 20, 0.8999, 50.0)]), 0.9)


def test_the_verdict_names_who_is_ahead_and_by_what_ratio() -> None:
    rows = [
        row("hnsw", 20, 0.96, 50.0),
        row("hnsw", 10, 0.91, 30.0),
        row("peer", 7, 0.97, 25.0),
        row("slow", 9, 0.5, 1.0),
    ]
    points = points_of(rows)
    assert best_at(points, 0.95)["hnsw", "{}"].us == 50.0
    said = verdict(points)
    assert said[1] == "Recall ≥ 0.95: our best is hnsw with 50 us; ahead of it: peer (2.00 times as fast)."
    assert said[2] == "Recall ≥ 0.99: no kind of ours reaches it in these rows."
    lines = {line[0]: line for line in panel_table(points).lines}
    assert lines["slow"][2] == "not reached (0.500)"
    assert lines["peer"][5:8] == ("25 [25, 25]", "0.970", "0.50")


def test_bad_answers_and_reasons_are_in_the_table_of_faults() -> None:
    rows = [row("peer", 7, 0.97, 25.0, duplicates=3, unknown=2), row("absent", 1, 0, 1, reason="cannot be imported")]
    lines = fault_table(rows, points_of(rows)).lines
    assert ("set", "absent", "defaults", "cannot be imported") in lines
    assert ("set", "peer", "defaults", "k = 10, ef 7: 3 ids returned twice, 2 unknown ids in 4 answers") in lines


def test_who_did_not_have_its_core_is_named() -> None:
    rows = [row("hnsw", 20, 0.96, 50.0, cpu_share=share, repeat=number) for number, share in enumerate((0.99, 0.4))]
    rows += [row("peer", 7, 0.97, 25.0, cpu_share=0.97), row("peer", 8, 0.97, 25.0, cpu_share=0.3, threads=2)]
    [line] = fault_table(rows, points_of(rows)).lines
    assert line[1] == "hnsw"
    machine = '{"cpu": "x", "cores": 2, "memory_bytes": 1, "system": "y", "python": "z"}'
    told = facts([{**one, "data_digest": "0", "n": 1, "d": 1, "machine": machine, "commit": "c"} for one in rows])
    assert told[-1].startswith("In 1 of 3 measurements on one thread the process had less than 90% of its core")
    assert line[3].startswith(
        "1 of 1 settings on one thread had less than 90% of their core in a repeat, the least 40%"
    )


@given(st.lists(st.tuples(st.floats(0.1, 1), st.floats(1, 100)), min_size=1, max_size=20))
def test_no_point_of_a_frontier_is_beaten(pairs: list[tuple[float, float]]) -> None:
    points = points_of([row("peer", number, recall, us) for number, (recall, us) in enumerate(pairs)])
    kept = frontier(points)
    assert [p.recall for p in kept] == sorted(p.recall for p in kept)
    for one in kept:
        assert not any(p.recall >= one.recall and p.us < one.us for p in points)
    assert min(p.us for p in points) in {p.us for p in kept}
