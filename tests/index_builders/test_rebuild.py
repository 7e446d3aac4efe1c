"""Rebuild jobs: what did not change is not done again, what is wrong stops the job and the old one serves on."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rebuild_jobs import SHARDS, D, N, files, job_file, quick, run, vectors, write  # noqa: F401
from tiny_tower import make_tiny_checkpoint

from bench.data import clustered
from index_builders.rebuild import Outcome, read_job
from retrieval.errors import FailedPrecondition, InvalidData, InvalidParams, SpaceMismatch
from retrieval.store import Lease, Store
from retrieval.store.manifest import MANIFEST_FILE
from retrieval.store.placement import shard_of


def test_the_same_inputs_do_nothing_and_say_so(tmp_path):
    write(tmp_path, vectors())
    first = run(tmp_path)
    again = run(tmp_path)
    assert first.outcome is Outcome.PUBLISHED
    assert first.built == SHARDS
    assert again.outcome is Outcome.UNCHANGED
    assert again.generation == first.generation
    assert Store(tmp_path / "store").generations("pin") == [first.generation]


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_changed_row_costs_its_shard_only_and_gives_what_a_full_build_gives(tmp_path, kind):
    x = vectors()
    write(tmp_path, x)
    index = f'kind = "{kind}"'
    run(tmp_path, index=index)
    x[7] = -x[7]
    write(tmp_path, x)
    second = run(tmp_path, index=index)
    assert (second.built, second.reused) == (1, SHARDS - 1)
    shard = f"shard-{shard_of(['e7'], SHARDS)[0]:05d}"
    report = {each.name: each.report for each in Store(tmp_path / "store").manifest("pin", second.generation).shards}
    assert [name for name, each in report.items() if "reused_from" not in each] == [shard]
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    write(fresh, x)
    full = run(fresh, index=index)
    assert full.reused == 0
    assert files(fresh / "store", full.generation) == files(tmp_path / "store", second.generation)


def test_the_order_of_the_source_does_not_count(tmp_path):
    x = vectors()
    write(tmp_path, x)
    run(tmp_path)
    table = pq.read_table(tmp_path / "source.parquet")
    pq.write_table(table.take(pa.array(np.random.default_rng(0).permutation(N))), tmp_path / "source.parquet")
    assert run(tmp_path).built == 0


def test_figures_of_unchanged_shards_are_carried_over_until_enough_changed(tmp_path):
    x = vectors()
    index = 'kind = "hnsw"\ntarget_recall = 0.9\ncarry_above = 0.7'
    store = Store(tmp_path / "store", create=True)
    write(tmp_path, x)
    first = store.manifest("pin", run(tmp_path, index=index).generation)
    homes = shard_of([f"e{i}" for i in range(N)], SHARDS)
    made = []
    for shard in (0, 1):
        row = int(np.flatnonzero(homes == shard)[0])
        x[row] = -x[row]
        write(tmp_path, x)
        made.append(store.manifest("pin", run(tmp_path, index=index).generation))
    second, third = made
    assert second.default_search == first.default_search
    assert any(f"are those measured in {first.id}" in warning for warning in second.warnings)
    assert {shard.report["measured"]["generation"] for shard in second.shards} == {first.id}
    # two shards of four have changed since the measurement, one since the parent
    assert not any("are those measured in" in warning for warning in third.warnings)
    assert {shard.report["measured"]["generation"] for shard in third.shards} == {""}


def test_ivfpq_keeps_its_quantizer_until_the_data_drifts(tmp_path):
    x = clustered(2_400, D, seed=3, clusters=20, intrinsic=8)
    index = 'kind = "ivfpq"\nmin_recall = 0.1\nparams = {pq_bits = 4, nlist = 8}'
    gate = "min_recall_at_10 = 0.0\nmin_recall_at_100 = 0.0\nmin_overlap_at_10 = 0.0\nmin_overlap_at_100 = 0.0"
    write(tmp_path, x)
    run(tmp_path, index=index, gate=gate)
    x[7] = x[8]
    write(tmp_path, x)
    second = run(tmp_path, index=index, gate=gate)
    assert (second.built, second.reused) == (1, SHARDS - 1)
    write(tmp_path, np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32))
    gate += "\nmax_score_shift = 10.0\nmax_score_drop = 10.0\nmin_segment_recall = 0.0\nmax_norm_shift = 10.0"
    third = run(tmp_path, index=index, gate=gate)
    trained = Store(tmp_path / "store").manifest("pin", third.generation).shards[0].report["trained"]
    assert not trained["kept"]
    assert trained["drift"] > 0.1


def test_a_refusal_leaves_the_old_one_live_until_it_is_approved(tmp_path):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    write(tmp_path, x[: N // 2])
    refused = run(tmp_path)
    store = Store(tmp_path / "store")
    assert refused.outcome is Outcome.REFUSED
    assert any("max_rows_lost" in each for each in refused.findings)
    assert {path.name for path in refused.gate_report} >= {"report.md", "report.json"}
    assert store.current("pin") == first.generation
    approved = run(tmp_path, approve="half of the catalogue was sold")
    assert approved.outcome is Outcome.PUBLISHED
    assert approved.findings == refused.findings  # what was overruled
    manifest = store.manifest("pin", store.current("pin"))
    assert manifest.approved == "half of the catalogue was sold"
    assert manifest.gate["passed"] is False


def test_only_changed_texts_are_embedded(tmp_path):
    make_tiny_checkpoint(tmp_path / "checkpoint", d=D)
    titles = [f"thing number {i}" for i in range(300)]

    def save() -> None:
        table = pa.table({"id": [f"e{i}" for i in range(len(titles))], "title": titles})
        pq.write_table(table, tmp_path / "source.parquet")

    top = 'checkpoint = "checkpoint"\npart_rows = 64\nthreads = 1'
    gate = "max_same_vectors = 1.0\nmin_overlap_at_10 = 0.0\nmin_overlap_at_100 = 0.0"
    save()
    first = run(tmp_path, top=top, gate=gate)
    assert first.embedded == 300
    titles[5] = "another thing"
    titles[6], titles[9] = titles[9], titles[6]  # known contents under other ids
    save()
    assert run(tmp_path, top=top, gate=gate).embedded == 1


def test_columns_that_vanish_or_change_are_told(tmp_path):
    x = vectors()
    write(tmp_path, x, price=pa.array(range(N)))
    run(tmp_path)
    write(tmp_path, x, price=pa.array([str(i) for i in range(N)]))
    with pytest.raises(InvalidData, match=r"'price' of .* was int64 in the last run and is string now"):
        run(tmp_path)
    write(tmp_path, x)
    with pytest.raises(InvalidData, match=r"'price' .int64. of .* is gone since the last run"):
        run(tmp_path)
    assert run(tmp_path, new_columns=True).outcome is Outcome.PUBLISHED


def test_what_is_wrong_is_said_before_work_and_nothing_moves(tmp_path):
    with pytest.raises(InvalidData, match="does not exist"):
        run(tmp_path)
    write(tmp_path, vectors())
    with pytest.raises(SpaceMismatch, match="space sp-test, the job wants sp-other"):
        run(tmp_path, top='space_id = "sp-other"')
    with pytest.raises(FailedPrecondition, match="memory"):
        run(tmp_path, limits='memory = "1M"')
    assert Store(tmp_path / "store").generations("pin") == []


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"top": "colour = 1"}, "has no setting 'colour'"),
        ({"index": "shards2 = 1"}, "has no setting 'index.shards2'"),
        ({"gate": "max_rows_lost = 2.0"}, "gate.max_rows_lost = 2.0 in .* is not acceptable"),
        ({"top": "keep = 0"}, "keep = 0 in .* is not acceptable"),
        ({"limits": "memory = 'lots'"}, r"limits\.memory = 'lots' in .* is not acceptable: give a number with K, M, G"),
        ({"index": "kind = 'hnws'"}, r"index\.kind = 'hnws' in .* is not acceptable"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(tmp_path, tables, sentence):
    with pytest.raises(InvalidParams, match=sentence):
        read_job(job_file(tmp_path, **tables))


def test_of_two_jobs_one_is_refused(tmp_path):
    write(tmp_path, vectors())
    home = Store(tmp_path / "store", create=True).prepare("pin")
    with Lease(home, owner="another job", lease_s=1.0), pytest.raises(FailedPrecondition, match="another job is at"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [("vanished", r"no generation '000001-.*' of 'pin' in "), ("newer", "has schema version 99, this program reads")],
)
def test_a_parent_that_cannot_be_compared_with_stops_the_job_unless_a_person_approves(tmp_path, fault, sentence):
    write(tmp_path, vectors())
    first = run(tmp_path)
    store = Store(tmp_path / "store")
    folder = store.generation_path("pin", first.generation)
    if fault == "vanished":
        store.remove("pin", first.generation, even_live=True)
    else:
        text = json.loads((folder / MANIFEST_FILE).read_text())
        (folder / MANIFEST_FILE).write_text(json.dumps({**text, "schema_version": 99}))
    before = sorted(folder.parent.iterdir())
    with pytest.raises(
        FailedPrecondition, match=rf"the live generation .* of 'pin' cannot be compared with: .*{sentence}"
    ):
        run(tmp_path)
    assert sorted(folder.parent.iterdir()) == before
    assert store.current("pin") == first.generation
    again = run(tmp_path, approve="seen")
    assert again.built + again.reused == SHARDS
    assert any("all is built anew" in note for note in again.notes)
    assert store.current("pin") == again.generation


def test_a_rolled_back_generation_is_not_put_back(tmp_path):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    x[3] = -x[3]
    write(tmp_path, x)
    second = run(tmp_path)
    store = Store(tmp_path / "store")
    assert store.rollback("pin") == first.generation
    again = run(tmp_path)
    assert again.outcome is Outcome.UNCHANGED
    assert again.generation == second.generation
    assert any("rolled back" in note for note in again.notes)
    assert store.current("pin") == first.generation


def test_the_report_is_json(tmp_path):
    write(tmp_path, vectors())
    assert json.loads(json.dumps(run(tmp_path).to_json()))["outcome"] == "published"


def test_inputs_that_were_built_before_build_nothing(tmp_path):
    x = vectors()
    write(tmp_path, x)
    first = run(tmp_path)
    changed = x.copy()
    changed[3] = -changed[3]
    write(tmp_path, changed)
    run(tmp_path)
    Store(tmp_path / "store").rollback("pin")
    write(tmp_path, x)
    again = run(tmp_path)
    assert (again.outcome, again.generation, again.built) == (Outcome.UNCHANGED, first.generation, 0)
    assert any("had been built from the same inputs before" in note for note in again.notes)


def test_what_was_built_before_is_judged_against_what_is_live_now(tmp_path):
    x, store = vectors(), Store(tmp_path / "store", create=True)
    write(tmp_path, x[: N // 2])
    first = run(tmp_path)
    write(tmp_path, x)
    second = run(tmp_path, approve="twice the rows")
    write(tmp_path, x[: N // 2])  # an old copy of the source, put back by mistake
    refused = run(tmp_path)
    assert refused.outcome is Outcome.REFUSED
    assert any("fewer where" in finding for finding in refused.findings)
    assert store.current("pin") == second.generation
    third = run(tmp_path, approve="meant")
    assert third.generation not in {first.generation, second.generation}
    assert (third.built, third.reused, third.approved) == (0, SHARDS, "meant")
    assert store.manifest("pin", third.generation).parent == second.generation
    assert files(tmp_path / "store", third.generation) == files(tmp_path / "store", first.generation)


def test_refused_rows_are_told(tmp_path):
    x = vectors()
    x[5] = np.nan
    write(tmp_path, x)
    assert any(note.startswith("1 rows were refused: 1 ") for note in run(tmp_path).notes)
