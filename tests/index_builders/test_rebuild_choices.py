"""A job that is checked before its night, that chooses its kind once, and that measures what may have changed."""

from __future__ import annotations

import numpy as np
import pytest
from rebuild_jobs import SHARDS, D, N, job_file, quick, run, vectors, write  # noqa: F401

from index_builders import verify
from index_builders.gate import answers, norms
from index_builders.rebuild import Outcome, check_job, read_job, tuned
from index_builders.source_norms import SourceNorms, merged
from retrieval.errors import FailedPrecondition, InvalidData, InvalidParams, SpaceMismatch
from retrieval.store import Store
from retrieval.topk import exact_search
from retrieval.types import Metric

OPEN = 'params = {}\nkind = "auto"'


def manifest(folder, generation):
    return Store(folder / "store").manifest("pin", generation)


def test_check_reads_what_the_source_says_of_itself(tmp_path):
    write(tmp_path, vectors())
    found = check_job(read_job(job_file(tmp_path)))
    assert (found.rows, found.space_id, set(found.columns)) == (N, "sp-test", {"id", "embedding"})
    assert not (tmp_path / "store").exists()


def test_check_reads_a_source_at_a_url_where_it_is(tmp_path):
    write(tmp_path, vectors())
    job = read_job(job_file(tmp_path)).model_copy(update={"source": (tmp_path / "source.parquet").as_uri()})
    assert check_job(job).rows == N
    gone = job.model_copy(update={"source": (tmp_path / "gone").as_uri()})
    with pytest.raises(InvalidData, match=r"gone does not exist or holds no .parquet or .arrow file"):
        check_job(gone)


def test_check_tells_a_missing_source_and_a_drifted_schema(tmp_path):
    job = read_job(job_file(tmp_path))
    with pytest.raises(InvalidData, match=r"source.parquet does not exist"):
        check_job(job)
    write(tmp_path, vectors(), colour=["red"] * N)
    run(tmp_path)
    check_job(job)
    write(tmp_path, vectors(), colour=[1] * N)
    with pytest.raises(InvalidData, match=r"'colour' .* was string .* is int64 now: .*--new-columns"):
        check_job(job)
    check_job(job, new_columns=True)
    with pytest.raises(InvalidData, match="has no column 'key'; it has: id, embedding, colour"):
        check_job(job.model_copy(update={"id_column": "key"}), new_columns=True)
    with pytest.raises(InvalidData, match="no column 'vector' of embeddings: name it, or a checkpoint"):
        check_job(job.model_copy(update={"embedding_column": "vector"}), new_columns=True)


def test_another_dimension_is_another_space_and_no_new_column(tmp_path):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    write(tmp_path, np.ascontiguousarray(x[:, : D // 2]))
    said = rf"has {D // 2} dimensions, the live generation {first.generation} of the same space sp-test has {D}: "
    for ask in (
        lambda: run(tmp_path),
        lambda: run(tmp_path, new_columns=True),
        lambda: check_job(read_job(job_file(tmp_path))),
    ):
        with pytest.raises(SpaceMismatch, match=said) as told:
            ask()
        assert "--new-columns" not in str(told.value)
    write(tmp_path, np.ascontiguousarray(x[:, : D // 2]), space="sp-other")
    assert run(tmp_path).outcome is Outcome.PUBLISHED


def test_a_kind_is_chosen_once_and_inherited(tmp_path, monkeypatch):
    x = vectors()
    write(tmp_path, x)
    table = "[tune]\ntarget_recall = 0.9\nmax_bytes_per_row = 60"
    first = run(tmp_path, index=OPEN, limits=table)
    assert any(note.startswith("[tune] chose ") for note in first.notes)
    chosen = manifest(tmp_path, first.generation).shards[0]
    assert chosen.report["tuned"]["max_bytes_per_row"] == 60
    assert run(tmp_path, index=OPEN, limits=table).outcome is Outcome.UNCHANGED

    x[7] = -x[7]
    write(tmp_path, x)
    tried = []
    monkeypatch.setattr("index_builders.tune.tune", lambda *a, **k: tried.append(a))
    second = run(tmp_path, index=OPEN, limits=table)
    assert not tried
    assert (second.built, second.reused) == (1, SHARDS - 1)
    now = manifest(tmp_path, second.generation)
    assert all((each.kind, each.build_params) == (chosen.kind, chosen.build_params) for each in now.shards)
    monkeypatch.undo()

    # other bounds choose anew; those that nothing keeps leave what is live
    with pytest.raises(
        FailedPrecondition, match=r"no candidate keeps the bounds; .* bytes per row where 2 are allowed"
    ):
        run(tmp_path, index=OPEN, limits="[tune]\nmax_bytes_per_row = 2")
    assert Store(tmp_path / "store").current("pin") == second.generation


def test_a_table_tune_and_a_kind_are_one_choice_too_many(tmp_path):
    with pytest.raises(InvalidParams, match=r"index.kind = .*flat.* is what \[tune\] chooses: leave one"):
        read_job(job_file(tmp_path, limits="[tune]"))
    with pytest.raises(InvalidParams, match=r"tune.target_recall = 2 .* less than or equal to 1"):
        read_job(job_file(tmp_path, index=OPEN, limits="[tune]\ntarget_recall = 2"))
    assert read_job(job_file(tmp_path, index=OPEN)).tune is None
    assert tuned.REPORT_KEY == "tuned"


def test_only_changed_shards_are_measured_where_that_says_enough(tmp_path, monkeypatch):
    x = vectors()
    index = 'kind = "hnsw"\ntarget_recall = 0.9\ncarry_above = 0.7'
    write(tmp_path, x)
    first = run(tmp_path, index=index)
    x[7] = -x[7]
    write(tmp_path, x)
    asked = []
    real = verify.measure
    monkeypatch.setattr(verify, "measure", lambda parts, *a, **k: asked.append(len(parts)) or real(parts, *a, **k))
    second = run(tmp_path, index=index)
    assert asked == [1]
    old, new = manifest(tmp_path, first.generation), manifest(tmp_path, second.generation)
    assert new.frontier == old.frontier
    assert new.default_search == old.default_search
    assert any("recall at the default effort was measured again in shard-0000" in said for said in new.warnings)
    assert new.gate["recall"]  # of the whole


def test_an_unchanged_shard_is_asked_once_for_both_sides(tmp_path, monkeypatch):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path, index='kind = "hnsw"')
    x[7] = -x[7]
    write(tmp_path, x)
    second = run(tmp_path, index='kind = "hnsw"')
    store = Store(tmp_path / "store")
    old, new = store.open("pin", first.generation), store.open("pin", second.generation)
    assert len(answers.same_shards(new, old)) == SHARDS - 1
    xq = x[:50]
    opened = []
    real = answers.open_index
    monkeypatch.setattr(answers, "open_index", lambda kind, path: opened.append(path) or real(kind, path))
    here, before = answers.search_both(new, old, xq, 100)
    assert len(opened) == SHARDS + 1
    for shared, alone in ((here, answers.search(new, xq, 100)), (before, answers.search(old, xq, 100, rescore=False))):
        for name in ("ids", "scores", "exact"):
            for one, other in zip(getattr(shared, name), getattr(alone, name), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("metric", list(Metric))
def test_the_truth_of_parts_is_that_of_the_whole(metric):
    rng = np.random.default_rng(0)
    xb, xq = rng.integers(-2, 3, (500, 8)).astype(np.float32), rng.integers(-2, 3, (20, 8)).astype(np.float32)
    truth = verify.Best(len(xq), 100)
    for part in np.split(xb, [3, 60, 61, 400]):
        truth.search(xq, part, metric)
    rows, scores = exact_search(xq, xb, 100, metric)
    np.testing.assert_allclose(truth.scores, scores, rtol=1e-6)
    np.testing.assert_allclose(verify.rescored_all(xq, rows, xb, None, metric), scores, rtol=1e-6)


def test_norms_are_those_of_the_source(tmp_path):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    write(tmp_path, 3 * x)  # the same vectors once they are normalised
    refused = run(tmp_path)
    assert any("the mean norm of the source is 3 against the parent's 1" in each for each in refused.findings)
    assert Store(tmp_path / "store").current("pin") == first.generation
    approved = run(tmp_path, approve="the encoder scales now")
    told = manifest(tmp_path, approved.generation)
    assert told.gate["norms"]["source of new"]["mean"] == pytest.approx(3, abs=1e-3)
    assert told.gate["norms"]["new"]["mean"] == pytest.approx(1, abs=1e-3)
    store = Store(tmp_path / "store")
    looked = norms.look(store.open("pin", approved.generation), store.open("pin", first.generation))
    assert looked["old"].source.rows == N


def test_norms_of_shards_merge_by_their_rows():
    parts = [SourceNorms() for _ in range(2)]
    parts[0].add(np.array([1, 1, 1], np.float32))
    parts[1].add(np.array([5], np.float32))
    reports = [{"source_norms": part.figures()} for part in parts]
    found = merged(reports)
    assert (found["rows"], found["mean"], found["smallest"], found["largest"]) == (4, 2, 1, 5)
    assert merged([*reports, {}]) is None
    assert merged([{"source_norms": SourceNorms().figures()}]) is None


def test_cpu_is_told_by_stage(tmp_path):
    write(tmp_path, vectors())
    found = run(tmp_path).to_json()["cpu_s"]
    assert next(iter(found)) == "start"
    assert {"read", "train", "add", "verify", "gate", "publish", "shard processes"} <= set(found)
    assert all(spent >= 0 for spent in found.values())
