"""The gate's limits, its report on disk, and `retrieval gate`: why first, the same text for the same input."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from tiny_store import make_store, make_vectors

from index_builders.gate import GateLimits, GateReport, judge, make_limits, read_limits, write_report
from index_builders.gate.markdown import markdown
from index_builders.gate.plots import NO_MATPLOTLIB
from retrieval.cli.gate import gate
from retrieval.errors import DamagedData, InvalidParams, NoGeneration, StoreError
from retrieval.store import Manifest, Store

N, D = 400, 8
LIMITS = make_limits(queries=20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three generations: one, the same again, and one with ids against the wrong vectors."""
    root = tmp_path_factory.mktemp("gate") / "store"
    x, ids = make_vectors(N, D, seed=1), np.array([f"e{i}" for i in range(N)], object)
    for seed, rows in enumerate((x, x, np.random.default_rng(0).permutation(x))):
        made = {"vectors": rows, "ids": ids, "canaries": True, "seed": seed, "publish": seed == 0}
        make_store(root, N, D, 2, "string", **made)
    return Store(root)


@pytest.fixture(scope="module")
def reports(store: Store) -> tuple[GateReport, GateReport]:
    """One that passes and one that fails."""
    first, same, shuffled = (store.open("pin", name) for name in store.generations("pin"))
    return judge(first, same, LIMITS), judge(first, shuffled, LIMITS)


def test_a_failed_gate_says_why_in_its_first_lines(reports):
    passed, failed = reports
    assert markdown(passed).splitlines()[0].endswith(": passed")
    lines = markdown(failed).splitlines()
    assert lines[0] == f"# Gate: pin {failed.new} against {failed.old}: FAILED"
    reasons = iter(lines[2 : lines.index("", 2)])
    for number, (worst, *others) in enumerate(failed.by_limit(), 1):
        line = next(reasons)
        assert line.startswith(f"{number}. **{worst.sentence}**")
        assert f"`{worst.limit}`: {worst.figure:g}, limit {worst.allowed:g}" in line
        assert f"Look at {worst.look_at}" in line
        assert others == sorted(others, key=lambda each: each.figure), "the one furthest from its limit comes first"
        assert [next(reasons) for _ in others] == [f"   - {each.sentence}" for each in others]
    assert list(reasons) == []


def test_the_same_input_gives_the_same_text_but_for_the_timings(store, reports):
    names = store.generations("pin")
    again = judge(store.open("pin", names[0]), store.open("pin", names[2]), LIMITS)
    assert again.model_dump(exclude={"seconds"}) == reports[1].model_dump(exclude={"seconds"})
    pages = [markdown(report).splitlines() for report in (again, reports[1])]
    assert pages[0][:-1] == pages[1][:-1]
    assert pages[0][-1].startswith("Took counts ")


def test_files_of_a_report(reports, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    written = write_report(reports[1], tmp_path / "out")
    assert [path.name for path in written[:2]] == ["report.md", "report.json"]
    plots = [path for path in written if path.suffix == ".png"]
    assert len(plots) == len(reports[1].histograms) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots)
    assert all(f"({path.name})" in written[0].read_text() for path in plots)
    body = json.loads(written[1].read_text())
    assert GateReport(**body) == reports[1]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_report(reports[1], tmp_path / "out")] == first
    assert sorted(os.listdir(tmp_path / "out")) == sorted(path.name for path in written)


def test_without_matplotlib_the_report_says_so(reports, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write_report(reports[0], tmp_path)
    assert [path.name for path in written] == ["report.md", "report.json"]
    assert NO_MATPLOTLIB in written[0].read_text()


def test_a_folder_that_cannot_be_written_is_one_sentence(reports, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write the gate's report into .*file"):
        write_report(reports[0], tmp_path / "file")


def test_a_manifest_keeps_the_report(store, reports):
    manifest = store.manifest("pin", store.generations("pin")[0])
    kept = manifest.model_copy(update={"gate": reports[1].model_dump()})
    again = Manifest.from_bytes(kept.to_bytes(), where="test")
    assert GateReport(**again.gate) == reports[1]


def test_every_limit_says_why_and_the_defaults_are_good():
    assert make_limits() == GateLimits()
    assert all(len(field.description or "") > 30 for field in GateLimits.model_fields.values())


def test_bad_limits_are_one_sentence(tmp_path):
    with pytest.raises(
        InvalidParams, match=r"the gate has no limit 'min_overlap'; the limits are queries, min_overlap_a"
    ):
        make_limits(min_overlap=1)
    with pytest.raises(
        InvalidParams, match=r"gate limit max_lost_ids = 5 is not acceptable: .*less than or equal to 1"
    ):
        make_limits(max_lost_ids=5)
    file = tmp_path / "job.toml"
    file.write_text("source = 'x'\n[gate]\nmax_lost_ids = 0.5\nsegment_column = 'country'\n")
    assert read_limits(file) == make_limits(max_lost_ids=0.5, segment_column="country")
    file.write_text("gate = 3")
    with pytest.raises(InvalidParams, match=r"gate in .*job.toml is 3: make it a table, \[gate\]"):
        read_limits(file)
    file.write_text("gate = ")
    with pytest.raises(InvalidParams, match=r"job.toml cannot be read as TOML with a table \[gate\]: "):
        read_limits(file)
    with pytest.raises(InvalidParams, match=r"absent.toml cannot be read as TOML"):
        read_limits(tmp_path / "absent.toml")


def test_the_command_passes_and_fails_with_its_reasons(store, tmp_path, capsys):
    first, same, shuffled = store.generations("pin")
    root = str(store.root)
    gate(root, "pin", first, same, count=20, as_json=True)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"generation {same} of pin passes, against {first}"
    assert json.loads(printed[-1])["passed"] is True
    with pytest.raises(typer.Exit) as caught:
        gate(root, "pin", first, shuffled, out=tmp_path / "out", count=20)
    assert caught.value.exit_code == 1
    printed = capsys.readouterr().out
    assert f"generation {shuffled} of pin breaks 2 limits, against {first}" in printed
    assert printed.count("min_overlap_at_10: ") == 1
    assert f"gate report: {tmp_path / 'out' / 'report.md'}, with report.json" in printed
    assert (tmp_path / "out" / "report.md").exists()
    gate(root, "pin", "none", shuffled, count=20)
    assert "passes, as a first generation" in capsys.readouterr().out


def test_the_command_takes_a_url(store, tmp_path, capsys):
    first, same, _ = store.generations("pin")
    gate(f"file://{store.root}", "pin", first, same, count=20, cache=tmp_path / "cache")
    assert "passes" in capsys.readouterr().out


def test_the_command_refuses_what_is_not_there_or_damaged(store, tmp_path):
    first, *_ = store.generations("pin")
    with pytest.raises(NoGeneration, match="no generation '000009-00000000' of 'pin'"):
        gate(str(store.root), "pin", "000009-00000000", first)
    made = make_store(tmp_path / "store", 40, D, 1, "string")
    file = made.path / "shard-00000" / "vectors.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamagedData, match=r"vectors\.npy"):
        gate(str(tmp_path / "store"), "pin", "none", made.manifest.id)


def test_the_documentation_has_every_limit_with_its_default_and_why():
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text()
    for name, field in GateLimits.model_fields.items():
        default = "none" if field.default is None else f"{field.default:g}"
        assert f"| `{name}` | {default} | {field.description} |" in page
