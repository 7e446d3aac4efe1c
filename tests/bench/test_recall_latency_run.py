"""The whole way with engines that lie, crash, hang or are absent: counted or told, and the others go on."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.recall_latency import sweep
from bench.recall_latency.data import make_data
from bench.recall_latency.engines.interface import ENGINES, engine_class, padded
from bench.recall_latency.main import main
from bench.recall_latency.report import main as report
from bench.recall_latency.rows import Row, read_all
from bench.recall_latency.sweep import Plan
from retrieval.errors import DamagedData, InvalidData, InvalidParams

LIARS = """
import os, time
import numpy as np
from bench.recall_latency.engines.interface import Kind

class Honest:
    kind, packages, builds = Kind.LIBRARY, (), ({"m": 1},)
    @staticmethod
    def efforts(k):
        return [{"ef": 1}, {"ef": 2}, {"ef": 3}]
    def build(self, xb, folder, params, threads):
        np.save(folder / "x.npy", xb)
    def open(self, folder, params, threads):
        self.x = np.load(folder / "x.npy")
    def exact(self, xq, k):
        return np.argsort(-(xq @ self.x.T), axis=1, kind="stable")[:, :k]
    def searcher(self, k, effort):
        return lambda xq: self.exact(xq, k)

class Liar(Honest):
    def searcher(self, k, effort):
        def search(xq):
            ids = self.exact(xq, k)
            ids[:, 1] = ids[:, 0]
            ids[:, 2] = 10**9
            ids[:, 3] = -1
            return ids
        return search

class Short(Honest):
    def searcher(self, k, effort):
        return lambda xq: self.exact(xq, k - 4)

class Floats(Honest):
    def searcher(self, k, effort):
        return lambda xq: self.exact(xq, k) + 0.5

class HalfBatch(Honest):
    def searcher(self, k, effort):
        return lambda xq: self.exact(xq[: (len(xq) + 1) // 2], k)

class Nothing(Honest):
    def searcher(self, k, effort):
        return lambda xq: None

class Deep(Honest):
    def searcher(self, k, effort):
        if effort["ef"] == 1:
            raise ValueError("ef 1 is too little")
        return lambda xq: self.exact(xq, k)

class Absent(Honest):
    def build(self, *arguments):
        import no_such_library

class Crashes(Honest):
    def searcher(self, k, effort):
        print("last words", flush=True)
        os.abort()

class Hangs(Honest):
    def build(self, *arguments):
        time.sleep(60)

class Raises(Honest):
    def searcher(self, k, effort):
        if effort["ef"] == 2:
            raise ValueError("ef 2 is not liked")
        return lambda xq: self.exact(xq, k)

class Shallow(Honest):
    def searcher(self, k, effort):
        if effort["ef"] == 3:
            raise ValueError("ef 3 is too much")
        return lambda xq: self.exact(xq, k)
"""
DATA = "clustered:120x8"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "liars.py").write_text(LIARS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


def measure(out: Path, *engines: str, more: tuple[str, ...] = ()) -> list[Row]:
    names = [f"liars:{name}" for name in engines]
    settings = ("--k", "5", "--queries", "6", "--repeats", "1", "--budget-s", "0.2", "--modes", "single:1", "batch:1")
    main(["--data", DATA, "--engines", *names, "--out", str(out), *settings, *more])
    return read_all(out)


def test_what_an_engine_does_wrong_is_counted_or_told(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = (
        "Honest", "Liar", "Short", "Floats", "HalfBatch", "Nothing", "Deep", "Absent", "Crashes", "Raises", "Shallow",
    )  # fmt: skip
    rows = measure(work / "out", *names)
    of = {name: [row for row in rows if row["engine"] == f"liars:{name}"] for name in names}
    assert len(of["Honest"]) == 6
    for row in of["Honest"]:
        assert row["recall"] == [1.0] * 6
        assert (row["missing"], row["duplicates"], row["unknown"]) == (0, 0, 0)
        assert len(row["latency_ns"]) == (6 if row["mode"] == "single" else 3)
        assert row["build_peak_bytes"] > 0
        assert 0 < row["cpu_share"] < 1.2
        assert row["disk_bytes"] > 120 * 8 * 4
    for row in of["Liar"]:
        assert row["recall"] == pytest.approx([0.4] * 6)
        assert (row["duplicates"], row["unknown"], row["missing"]) == (6, 6, 18)
    assert {(row["mode"], row["missing"], row["reason"]) for row in of["Short"]} == {
        ("single", 24, ""),
        ("batch", 24, ""),
    }
    assert {row["reason"] for row in of["Floats"]} == {
        "searching: answered with float64 of shape [6, 5], not whole numbers of shape [6, 5]"
    }
    assert {(row["mode"], row["reason"]) for row in of["HalfBatch"]} == {
        ("single", ""),
        ("batch", "searching: answered with int64 of shape [3, 5], not whole numbers of shape [6, 5]"),
    }
    assert {row["reason"] for row in of["Nothing"]} == {
        "searching: TypeError: answered with objects that are no numbers"
    }
    assert [row["reason"] for row in of["Deep"]] == 2 * ["searching: ValueError: ef 1 is too little", "", ""]
    assert [row["reason"] for row in of["Absent"]] == [
        "building: cannot be imported: No module named 'no_such_library'"
    ]
    assert [row["reason"] for row in of["Crashes"]] == ["searching: its process was ended by SIGABRT: last words"]
    assert sorted({row["reason"] for row in of["Raises"]}) == ["", "searching: ValueError: ef 2 is not liked"]
    assert [row["reason"] for row in of["Shallow"]] == 2 * ["", "", "searching: ValueError: ef 3 is too much"]
    said = capsys.readouterr().out
    assert "could not run: liars:Absent" in said

    first = files(work / "out")
    report([str(work / "out")])
    page = (work / "out" / "report.html").read_text()
    assert "cannot be imported" in page
    assert "12 ids returned twice, 12 unknown ids in 12 answers" in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", "")
    written = files(work / "out")
    shutil.rmtree(work / "out" / "plots")
    report([str(work / "out")])
    assert files(work / "out") == written
    assert set(first) < set(written)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_finished_is_kept_and_what_failed_is_tried_again(work: Path) -> None:
    out = work / "out"
    measure(out, "Honest", "Hangs", more=("--limit-s", "3"))
    first = files(out)
    hung, honest = sorted(first)  # rows/…-liars-Hangs-…, rows/…-liars-Honest-…
    assert [row["reason"] for row in read_all(out) if "Hangs" in row["engine"]] == [
        "building: was not done after 3 s and was ended; --limit-s allows more"
    ]
    (work / "liars.py").write_text(LIARS.replace("time.sleep(60)", "raise OSError('disk')"))
    measure(out, "Hangs")
    again = files(out)
    assert again[honest] == first[honest]
    assert again[hung] != first[hung]
    measure(out, "Honest")
    assert files(out)[honest] == first[honest]
    measure(out, "Honest", more=("--again", "liars:Honest"))
    assert files(out)[honest] != first[honest]


def test_every_listed_engine_says_what_it_measures() -> None:
    for name in ENGINES:
        engine = engine_class(name)
        assert engine.builds
        for k in (3, 10, 100, 333, 1_000):
            efforts = [tuple(sorted(effort.items())) for effort in engine.efforts(k)]
            assert efforts
            assert len(set(efforts)) == len(efforts)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivfpq"])
def test_our_kinds_answer_in_the_rows_of_the_data(kind: str, tmp_path: Path) -> None:
    data = make_data("clustered:900x16", tmp_path, queries=10)
    engine = engine_class(kind)()
    engine.build(data.base(), tmp_path, engine.builds[0], 1)
    engine.open(tmp_path, engine.builds[0], 1)
    search = engine.searcher(5, list(engine.efforts(5))[-1])
    ids = search(data.base()[40:43])
    assert ids.shape == (3, 5)
    assert ids[:, 0].tolist() == [40, 41, 42]


def test_an_engine_or_setting_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="engine 'fais' is not known: choose from flat, hnsw"):
        engine_class("fais")
    with pytest.raises(InvalidParams, match="engine 'bench:Nothing' cannot be loaded"):
        engine_class("bench:Nothing")
    with pytest.raises(InvalidParams, match="repeats = 0"):
        Plan(engines=("flat",), repeats=0)
    with pytest.raises(InvalidParams, match="mode 'both' is not known"):
        Plan(engines=("flat",), modes=("both",))
    with pytest.raises(InvalidParams, match="ask for 1 answer or more"):
        Plan(engines=("flat",), ks=(0,))
    with pytest.raises(InvalidParams, match="engine 'json:JSONDecoder' has no kind: an adapter has what `Engine` has"):
        engine_class("json:JSONDecoder")
    with pytest.raises(InvalidParams, match="--again names 'hnws', which is not among the engines that are measured"):
        Plan(engines=("flat",), again=("hnws",))
    with pytest.raises(InvalidData, match="has no rows"):
        read_all(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedData, match="cannot be read as rows"):
        read_all(tmp_path)


def test_a_mistyped_set_is_told_before_the_first_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidParams, match="data 'clusterd:9x3' is not acceptable: write one of"):
        main(["--data", DATA, "clusterd:9x3", "--engines", "flat", "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_ragged_answers_are_padded() -> None:
    assert padded([[1, 2, 3], [], [9]], 2).tolist() == [[1, 2], [-1, -1], [9, -1]]


def test_an_index_of_other_builders_is_built_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = sweep.Unit(name="flat", engine=engine_class("flat"), params={})
    peer = sweep.Unit(name="hnswlib", engine=engine_class("hnswlib"), params={})
    before = unit.marks, peer.marks
    monkeypatch.setattr(sweep, "own_code", lambda: "another")
    assert unit.marks != before[0]
    assert peer.marks == before[1]


def test_a_command_that_is_ended_takes_its_child_along(work: Path) -> None:
    line = [sys.executable, "-m", "bench.recall_latency.main", "--data", DATA, "--engines", "liars:Hangs"]
    command = subprocess.Popen([*line, "--out", str(work / "out")], stderr=subprocess.DEVNULL)
    child, until = None, time.monotonic() + 60
    while child is None and time.monotonic() < until:
        time.sleep(0.02)
        child = engine_child(command.pid)
    assert child is not None
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=30) == 143
    assert not Path(f"/proc/{child}").exists()


def engine_child(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if b"bench.recall_latency.child" in Path(f"/proc/{each}/cmdline").read_bytes():
                return int(each)
    return None


def test_builds_and_efforts_can_be_chosen(work: Path) -> None:
    chosen = ("--build", "liars:Honest:m=2", "--build", "liars:Honest:m=3", "--effort", 'liars:Honest:ef=7,way="odd"')
    rows = measure(work / "out", "Honest", more=chosen)
    assert {row["build"] for row in rows} == {'{"m": 2}', '{"m": 3}'}
    assert {row["effort"] for row in rows} == {'{"ef": 7, "way": "odd"}'}
    measure(work / "out", "Honest", more=("--queries", "4"))
    assert len({row["data"] for row in read_all(work / "out")}) == 2  # other queries, another set
    with pytest.raises(InvalidParams, match="--build 'm=2' is not acceptable: write ENGINE:NAME=VALUE"):
        measure(work / "out", "Honest", more=("--build", "m=2"))
    with pytest.raises(InvalidParams, match="k = 500 is more than the 120 rows of clustered-120x8"):
        measure(work / "out", "Honest", more=("--k", "500"))
