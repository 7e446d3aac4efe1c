"""Choosing a build by bounds: what fits, what is rejected and why, what is extrapolated, what the build then says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tower import make_tiny_checkpoint
from typer.testing import CliRunner

from bench.data import clustered
from index_builders.build import BuildReport, build
from index_builders.query_texts import encode_queries, read_texts
from index_builders.rebuild.job_file import read_job
from index_builders.settings import BuildSettings, make_settings
from index_builders.tune import Bounds, Choice, make_bounds, tune
from index_builders.tune.candidates import Candidate, candidates, row_bytes
from index_builders.tune.choose import broken, choose, excess, judge
from index_builders.tune.extrapolate import EXPONENT, MOST_GROWTH, latency, recall
from index_builders.tune.outcome import Promise, outcome, promise
from index_builders.tune.sample import draw_sample
from retrieval.errors import FailedPrecondition, InvalidData, InvalidParams, SpaceMismatch
from retrieval.store import Store
from retrieval.store.manifest import FrontierPoint
from retrieval.types import IndexKind

FLAT = Candidate(kind=IndexKind.FLAT, params={"vectors": "float16"})
GRAPH = Candidate(kind=IndexKind.HNSW, params={"m": 16, "ef_construction": 200, "vectors": "float16"})
LISTS = Candidate(kind=IndexKind.IVFPQ, params={"pq_dims": 2, "vectors": "float16"}, rescore=True)


def option(candidate: Candidate, at_100: float, p95_ms: float, size: float, **search: int) -> Choice:
    return Choice(
        candidate=candidate, params={}, search=search, recall_at_100=at_100, p95_ms=p95_ms, bytes_per_row=size
    )


TABLE = {
    "flat": [option(FLAT, 1.0, 8.0, 256)],
    "graph": [option(GRAPH, 0.94, 0.2, 525, ef=100), option(GRAPH, 0.97, 0.4, 525, ef=200)],
    "lists": [option(LISTS, 0.90, 0.3, 299, nprobe=32), option(LISTS, 0.96, 0.45, 299, nprobe=64)],
}


@pytest.mark.parametrize(
    ("bounds", "kind", "search"),
    [
        ({}, IndexKind.IVFPQ, {"nprobe": 64}),  # about as quick as the graph (0.45 and 0.4 ms), and fewer bytes
        ({"target_recall": 0.97}, IndexKind.HNSW, {"ef": 200}),
        ({"target_recall": 0.99}, IndexKind.FLAT, {}),
        ({"max_latency_ms": 10}, IndexKind.FLAT, {}),  # speed beyond the bound was not asked for
        ({"max_latency_ms": 5}, IndexKind.IVFPQ, {"nprobe": 64}),
        ({"max_latency_ms": 0.42}, IndexKind.HNSW, {"ef": 200}),
        ({"max_bytes_per_row": 300}, IndexKind.IVFPQ, {"nprobe": 64}),
        ({"max_bytes_per_row": 260}, IndexKind.FLAT, {}),
        ({"max_bytes_per_row": 600, "max_latency_ms": 5, "target_recall": 0.965}, IndexKind.HNSW, {"ef": 200}),
        ({"max_bytes_per_row": 260, "max_latency_ms": 5}, None, {}),
        ({"max_bytes_per_row": 100}, None, {}),
        ({"target_recall": 0.98, "max_latency_ms": 1}, None, {}),
    ],
)
def test_what_is_chosen(bounds: dict[str, float], kind: IndexKind | None, search: dict[str, int]) -> None:
    wanted = make_bounds(**bounds)
    found = choose([judge(each, wanted) for each in TABLE.values()], wanted)
    chosen = [verdict for verdict in found if verdict.chosen]
    assert all(verdict.reason for verdict in found), "every candidate is told why"
    if kind is None:
        assert chosen == []
        return
    assert [verdict.candidate.kind for verdict in chosen] == [kind]
    assert chosen[0].nearest is not None
    assert chosen[0].nearest.search == search
    assert not broken(chosen[0].nearest, wanted)


@given(
    recall_at_100=st.floats(0, 1),
    p95_ms=st.floats(0.01, 100),
    size=st.floats(1, 4_000),
    target=st.floats(0.5, 0.999),
    most_ms=st.floats(0.01, 100),
    most_bytes=st.floats(1, 4_000),
)
def test_a_choice_breaks_no_bound_exactly_when_nothing_is_in_excess(
    recall_at_100: float, p95_ms: float, size: float, target: float, most_ms: float, most_bytes: float
) -> None:
    bounds = Bounds(target_recall=target, max_latency_ms=most_ms, max_bytes_per_row=most_bytes)
    choice = option(FLAT, recall_at_100, p95_ms, size)
    kept = not broken(choice, bounds)
    assert kept == (recall_at_100 >= target and p95_ms <= most_ms and size <= most_bytes)
    assert excess(choice, bounds) >= 1
    if kept:
        assert excess(choice, bounds) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"target_recall": 1.5}, r"target_recall = 1\.5 is not acceptable: .*less than or equal to 1"),
        ({"max_latency_ms": 0}, r"max_latency_ms = 0 is not acceptable: .*greater than 0"),
        ({"max_bytes_per_row": -1}, r"max_bytes_per_row = -1 is not acceptable: .*greater than 0"),
    ],
)
def test_bounds_that_are_none(values: dict[str, float], sentence: str) -> None:
    with pytest.raises(InvalidParams, match=sentence):
        make_bounds(**values)


@given(
    kind=st.sampled_from(list(IndexKind)),
    fixed=st.floats(0, 1),
    slope=st.floats(0, 1e-3),
    n1=st.integers(100, 10_000),
    by=st.integers(2, 8),
    rows=st.integers(1, 10_000_000),
)
def test_latency_of_the_law_is_found_again(
    kind: IndexKind, fixed: float, slope: float, n1: int, by: int, rows: int
) -> None:
    def law(n: int) -> float:
        return fixed + slope * float(n ** EXPONENT[kind])

    n2 = n1 * by
    found = latency(kind, (n1, law(n1)), (n2, law(n2)), rows)
    assert found == pytest.approx(law(max(rows, n2)), rel=1e-6, abs=1e-9)


@given(kind=st.sampled_from(list(IndexKind)), r1=st.floats(0, 1), r2=st.floats(0, 1), rows=st.integers(1, 10_000_000))
def test_recall_never_grows_with_rows_and_never_falls_without_bound(
    kind: IndexKind, r1: float, r2: float, rows: int
) -> None:
    found = recall(kind, (1_000, r1), (4_000, r2), rows, answers=10_000)
    assert 0 <= found <= r2
    missed = max(1 - r2, 5e-5)
    assert 1 - found <= max(1 - r2, missed * MOST_GROWTH[kind] ** max(0.0, np.log2(rows / 4_000))) + 1e-9


def test_candidates_differ_and_cost_what_the_table_says() -> None:
    found = candidates(128)
    assert len({each.name for each in found}) == len(found)
    assert {each.kind for each in found} == set(IndexKind)
    assert {each.rescore for each in found} == {None, True, False}
    assert all(each.params.get("pq_dims", 1) == 1 for each in candidates(31)), "codes have to divide the dimensions"
    params = {"vectors": "float16", "m": 16, "ef_construction": 200}
    with_codes, without = (row_bytes(GRAPH, params, 1_000, 128, codes=codes) for codes in (True, False))
    assert with_codes - without == 136


@pytest.fixture
def settings(write: Callable[..., Path], tmp_path: Path) -> BuildSettings:
    source = write(clustered(4_000, 32, seed=4, clusters=40, intrinsic=8))
    return make_settings(
        source=source, store=tmp_path / "store", entity_type="pin", workers=0, verify_queries=20, shards=2
    )


def test_a_sample_is_the_same_for_a_seed_and_leaves_bad_rows_out(write: Callable[..., Path], tmp_path: Path) -> None:
    x = clustered(1_000, 16, seed=4, clusters=10, intrinsic=8)
    x[::10] = np.nan
    made = make_settings(source=write(x), store=tmp_path, entity_type="pin")
    first, second = draw_sample(made, 600), draw_sample(made, 600)
    np.testing.assert_array_equal(first.x, second.x)
    assert np.isfinite(first.x).all()
    assert 500 <= len(first.x) < 600
    assert (first.rows, first.d) == (1_000, 16)
    np.testing.assert_allclose(np.linalg.norm(first.x, axis=1), 1, atol=1e-5)
    with pytest.raises(InvalidData, match=r"has \d+ usable rows to try candidates on, too few to choose by: it takes"):
        draw_sample(made, 100)


def test_a_build_is_tuned_and_says_by_how_much_it_was_off(settings: BuildSettings) -> None:
    bounds = make_bounds(target_recall=0.9, max_bytes_per_row=130)
    report = tune(settings, bounds, sample_rows=1_500)
    choice = report.chosen()
    assert (report.shard_rows, report.sample_rows, report.query_kind) == (2_000, 1_500, "items")
    assert len(report.verdicts) == len(candidates(32))
    assert sum(verdict.chosen for verdict in report.verdicts) == 1
    for verdict in report.verdicts:
        assert verdict.bytes_per_row > 130 or verdict.nearest is not None or verdict.reason.startswith("not built")
    assert choice.bytes_per_row <= 130
    assert choice.recall_at_100 >= 0.9
    chosen = settings.model_copy(
        update={
            "kind": choice.candidate.kind,
            "params": choice.params,
            "promised": promise(choice, report.sample_rows).model_dump(),
        }
    )
    built = build(chosen)
    said = [warning for warning in built.manifest.warnings if warning.startswith("tuned on 1,500 rows")]
    assert len(said) == 1
    assert "were measured" in said[0]
    # what tuning expects is told, and is no part of what the build is
    assert not build(chosen.model_copy(update={"promised": None})).built


def test_when_nothing_fits_the_nearest_and_its_bound_are_named(settings: BuildSettings) -> None:
    with pytest.raises(
        FailedPrecondition,
        match=r"the smallest is flat, float16 with 64 bytes per row where 10 are allowed: allow more",
    ):
        tune(settings, make_bounds(max_bytes_per_row=10), sample_rows=600).chosen()
    with pytest.raises(
        FailedPrecondition, match=r"the nearest is .*, which gives .* ms, above 1e-06: relax that bound"
    ):
        tune(settings, make_bounds(target_recall=0.5, max_latency_ms=1e-6), sample_rows=600).chosen()


def test_real_queries_decide_where_they_are_given(settings: BuildSettings, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", clustered(50, 32, seed=9, clusters=40, intrinsic=8))
    given_some = settings.model_copy(update={"queries": tmp_path / "q.npy"})
    report = tune(given_some, make_bounds(max_bytes_per_row=70), sample_rows=600)
    assert report.query_kind == "real"
    assert report.chosen().candidate.kind is IndexKind.FLAT


def test_the_outcome_in_one_sentence() -> None:
    promised = Promise(search={"ef": 200}, recall_at_100=0.96, p95_ms=2.0, sample_rows=16_384)
    point = FrontierPoint(params={"ef": 200}, recall_at_10=0.99, recall_at_100=0.95, p50_ms=1.0, p95_ms=3.0, queries=20)
    assert outcome(promised, [point]) == (
        "tuned on 16,384 rows for ef 200: recall@100 0.9600 and p95 2 ms were expected, 0.9500 (-0.0100) and 3 ms "
        "(1.50 times) were measured"
    )
    assert outcome(promised, []).endswith("this build did not measure that effort")
    banded = point.model_copy(update={"filter_band": 0.5})
    assert outcome(promised, [banded]).endswith("this build did not measure that effort")


def call(verb: str, *arguments: object) -> object:
    import typer

    from retrieval.cli import build as build_verb
    from retrieval.cli import tune as tune_verb

    app = typer.Typer()
    app.command()({"build": build_verb.build, "tune": tune_verb.tune}[verb])
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_commands(settings: BuildSettings, tmp_path: Path) -> None:
    done = call("tune", settings.source, "--max-bytes-per-row", 70, "--sample-rows", 600, "--json")
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    told = json.loads(done.stdout.splitlines()[-1])  # type: ignore[attr-defined]
    assert told["kind"] == "flat"
    assert sum(each["chosen"] for each in told["candidates"]) == 1
    assert all(each["verdict"] for each in told["candidates"])
    (tmp_path / "job.toml").write_text(f"""entity_type = "pin"\nsource = "s"\nstore = "t"\n{told["job"]}\n""")
    index = read_job(tmp_path / "job.toml").index
    assert (str(index.kind), index.params, index.target_recall) == (
        "flat",
        {"vectors": told["params"]["vectors"]},
        0.95,
    )
    line = told["command"].replace("STORE", str(tmp_path / "line")).replace("TYPE", "pin").split()
    assert line[:2] == ["retrieval", "build"]
    assert told["command"] in done.stdout  # type: ignore[attr-defined]
    done = call("build", *line[2:], "--workers", 0, "--min-recall", 0)
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    manifest = Store(tmp_path / "line").manifest("pin", Store(tmp_path / "line").current("pin"))
    assert str(manifest.shards[0].kind) == "flat"
    common = (settings.source, "--store", tmp_path / "s", "--entity-type", "pin", "--workers", 0)
    done = call("build", *common, "--target-recall", 0.9, "--max-bytes-per-row", 70, "--json")
    assert done.exit_code == 0, done.output  # type: ignore[attr-defined]
    told = json.loads(done.stdout.splitlines()[-1])  # type: ignore[attr-defined]
    assert told["kind"] == "flat"
    assert any(warning.startswith("tuned on") for warning in told["warnings"])
    assert told["estimate"]["kind"] == "flat"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--kind", "hnsw", "--max-latency-ms", 5], r"choose the kind, and --kind hnsw names one: leave either out"),
        (["--max-latency-ms", 5, "--m", 8], r"--m fixes what tuning chooses: name the --kind too, or leave it out"),
        (["--query-texts", "q.txt"], r"--query-texts and --checkpoint go together"),
        (["--checkpoint", "c"], r"--query-texts and --checkpoint go together"),
        (["--queries", "q.npy", "--query-texts", "q.txt", "--checkpoint", "c"], r"give one of them"),
        (["--max-memory", "much"], r"--max-memory = 'much' is not a size"),
    ],
)
def test_options_that_contradict_are_refused(
    settings: BuildSettings, tmp_path: Path, options: list[object], sentence: str
) -> None:
    done = call("build", settings.source, "--store", tmp_path / "s", "--entity-type", "pin", *options)
    with pytest.raises(InvalidParams, match=sentence):
        raise done.exception  # type: ignore[attr-defined]
    assert not (tmp_path / "s").exists()


def test_texts_become_queries(tmp_path: Path, write: Callable[..., Path], run: Callable[..., BuildReport]) -> None:
    checkpoint = make_tiny_checkpoint(tmp_path / "tower", d=16)
    texts = tmp_path / "texts.txt"
    texts.write_text("red shoes\n\n  oak table \nblue lamp\n", encoding="utf-8")
    assert read_texts(texts) == ["red shoes", "oak table", "blue lamp"]
    source = write(300)
    with pytest.raises(SpaceMismatch, match=r"cannot search an index of space sp-test"):
        encode_queries(texts, checkpoint, tmp_path, count=9, seed=0, source=source)
    from retrieval.towers.query import QueryTower

    tower = QueryTower.load(checkpoint)
    file = encode_queries(texts, checkpoint, tmp_path, count=2, seed=0, source=source, space_id=tower.space_id)
    found = np.load(file)
    everything = tower.encode(read_texts(texts))
    assert found.shape == (2, 16)
    assert all(any(np.allclose(each, row, atol=1e-5) for row in everything) for each in found)
    (tmp_path / "none.txt").write_text(" \n")
    with pytest.raises(InvalidData, match=r"holds no query text"):
        read_texts(tmp_path / "none.txt")
    pa.parquet.write_table(pa.table({"text": ["a lamp", None], "n": [1, 2]}), tmp_path / "q.parquet")
    assert read_texts(tmp_path / "q.parquet") == ["a lamp"]
    with pytest.raises(InvalidData, match=r"no column 'text' or 'query' of query texts; it has: id, embedding"):
        read_texts(source)
