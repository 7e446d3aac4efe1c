"""The measurements run by name and end with one JSON line."""

import importlib
import json
import multiprocessing
import re
from pathlib import Path

import pytest

from bench import together
from bench.data import clustered, clustered_queries
from retrieval.errors import InvalidParams


@pytest.mark.parametrize("each", together.MEASUREMENTS, ids=lambda each: each.name)
def test_a_measurement_takes_the_arguments_that_all_gives_it(
    each: together.Measurement, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (each.quick, each.full):
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(each.module).main([*(arguments or ()), "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: retrieval bench {each.name} [-h]")


@pytest.mark.parametrize(
    ("module", "arguments", "sentence"),
    [
        ("filters", ["--rows", "50"], "--rows 50 is not acceptable: give 1,000 to 1,000,000,000"),
        ("filters", ["--recall", "nan"], "--recall nan is not acceptable: give 0 to 1"),
        ("build_hnsw", ["--rows", "0"], "--rows 0 is not acceptable"),
        ("kernel_vs_hnswlib", ["--rows", "5"], "--rows 5 is not acceptable"),
        ("ivfpq_vs_faiss", ["--dims", "0"], "--dims 0 is not acceptable"),
        ("life", ["--rows", "-1"], "--rows -1 is not acceptable"),
        ("grouped", ["--callers", "2", "0"], "--callers 0 is not acceptable: give 1 to 256"),
        ("grpc_overhead", ["--shards", "0"], "--shards 0 is not acceptable"),
        ("towers", ["--threads", "0"], "--threads 0 is not acceptable"),
        ("encode_path", ["--repeats", "0"], "--repeats 0 is not acceptable"),
        ("fleet", ["--rate", "0"], "--rate 0.0 is not acceptable: give 0.01 to 1,000,000.0"),
        ("delta", ["--seconds", "0"], "--seconds 0.0 is not acceptable"),
        ("rebuild", ["--in-shards", "17"], "--in-shards 17 is not acceptable: give 1 to 16"),
        ("swaps", ["--rate", "0"], "--rate 0.0 is not acceptable"),
        ("swaps", ["--swaps", "0"], "--swaps 0 is not acceptable"),
    ],
)
def test_a_number_that_cannot_be_is_told_before_anything_is_built(
    module: str, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(InvalidParams, match=re.escape(sentence)):
        importlib.import_module(f"bench.{module}").main(arguments)


def test_what_was_printed_is_kept_and_a_failure_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("good", "print('a table'); print('{\"ratio\": 2}')"), ("bad", "raise SystemExit(3)")):
        (tmp_path / f"{name}_measurement.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = [together.Measurement(name, f"{name}_measurement", f"A {name} one.", ()) for name in ("bad", "good")]
    monkeypatch.setattr(together, "MEASUREMENTS", tuple(made))
    assert together.run(full=False, only=[], out=tmp_path / "out") == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["failed"] == ["bad"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "figures.jsonl").read_text().splitlines()]
    assert [(row["name"], row["status"], row["figures"]) for row in rows] == [("bad", 3, {}), ("good", 0, {"ratio": 2})]
    assert "A good one.\n\n`retrieval bench good`" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(InvalidParams, match="--only 'other' is no measurement; there are: bad, good"):
        together.run(full=False, only=["other"], out=tmp_path / "out")


def test_a_small_measurement_ends_with_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("bench.build_hnsw").main(
        ["--rows", "2000", "--dims", "16", "--shards", "2", "--workers", "2"]
    )
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["rows"] == 2000
    assert figures["ratio"] > 0
    assert figures["sample_recall"] > 0.9


def test_a_fleet_ends_with_a_measurement_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = importlib.import_module("bench.fleet")
    seen: list[int] = []

    def fails(*_: object) -> None:
        seen.append(len(multiprocessing.active_children()))
        raise RuntimeError("no answer")

    monkeypatch.setattr(fleet, "_one_fault", fails)
    before = len(multiprocessing.active_children())
    with pytest.raises(RuntimeError, match="no answer"):
        fleet.main(["--rows", "1000", "--only", "faults"])
    assert seen == [before + fleet.LEAVES + 1]
    assert len(multiprocessing.active_children()) == before


def test_generated_data_is_seeded_unit_and_held_out() -> None:
    x, again, q = clustered(500, 24, seed=3), clustered(500, 24, seed=3), clustered_queries(50, 24, seed=3)
    assert x.tobytes() == again.tobytes()
    assert x.tobytes() != clustered(500, 24, seed=4).tobytes()
    assert abs((x**2).sum(axis=1) - 1).max() < 1e-5
    assert (q @ x.T).max() < 1 - 1e-6  # no query is a row
