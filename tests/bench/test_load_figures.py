"""Schedules, figures and the saturation search, without a server."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import load
from bench.load_figures import MAX_LAG_MS, back_to_normal_s, summarise
from bench.load_generator import Outcome
from bench.load_queries import describe, texts_of
from bench.load_schedule import due_ns
from bench.load_search import MAX_LOADS, PRECISION, saturation
from retrieval.errors import InvalidData, InvalidParams, Unavailable


def outcome(latency_ms: np.ndarray, *, rate: float = 100.0, lag_ms: float = 0.1, failed: int = 0) -> Outcome:
    n = len(latency_ms)
    status = np.array(["UNAVAILABLE"] * failed + ["OK"] * (n - failed))
    return Outcome(
        due_ns=(np.arange(n) / rate * 1e9).astype(np.int64),
        latency_ns=(latency_ms * 1e6).astype(np.int64),
        lag_ns=np.full(n, int(lag_ms * 1e6)),
        status=status,
        coverage=np.where(status == "OK", 1.0, np.nan),
        degraded=np.zeros(n, bool),
        stage_ns={"search": np.full(n - failed, 1_000)},
        effort="ef: 64",
        recall_at_100=0.95,
        cpu_s=0.5,
        wall_s=n / rate,
    )


@given(rate=st.floats(50, 5_000), seconds=st.floats(0.1, 3), seed=st.integers(0, 2**31))
def test_arrivals_are_seeded_sorted_and_inside_the_time(rate: float, seconds: float, seed: int) -> None:
    for arrivals in ("constant", "poisson"):
        due = due_ns(rate, seconds, arrivals, seed)
        assert (np.diff(due) >= 0).all()
        assert due[0] >= 0
        assert due[-1] <= seconds * 1e9
        assert due.tobytes() == due_ns(rate, seconds, arrivals, seed).tobytes()
        assert abs(len(due) - rate * seconds) <= 6 * (rate * seconds) ** 0.5 + 1


def test_poisson_gaps_vary_as_much_as_their_mean_and_constant_ones_do_not() -> None:
    gaps = np.diff(due_ns(1_000, 50, "poisson", 1))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.03)
    assert np.diff(due_ns(1_000, 5, "constant", 1)).std() < 2


@given(st.floats(1, 100_000), st.floats(1, 100_000))
def test_the_search_ends_within_its_precision(limit: float, start: float) -> None:
    asked: list[float] = []

    def keeps(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = saturation(keeps, start)
    assert len(asked) <= MAX_LOADS
    assert found <= limit
    if 0.3 * start <= limit <= 5 * start:
        assert found * (1 + PRECISION) >= limit * 0.999


def test_a_rate_that_another_program_broke_is_asked_again() -> None:
    broken = iter([True])
    found = saturation(lambda rate: rate <= 100 and not next(broken, False), 50)
    assert found == pytest.approx(100, rel=PRECISION)


def test_percentiles_rates_and_errors_of_a_point() -> None:
    point = summarise(
        outcome(np.arange(1, 1_001) / 10, failed=10),
        what="x",
        arrivals="constant",
        rate=100,
        seconds=10,
        server_cpu_s=2,
    )
    assert point.latency_ms["p50"] == pytest.approx(50.55, abs=0.1)
    assert point.latency_ms["p99.9"] == pytest.approx(99.9, abs=0.1)
    assert point.errors == {"UNAVAILABLE": 10}
    assert point.achieved == pytest.approx(98.1, abs=0.2)
    assert point.server_us == pytest.approx(2e6 / 990, abs=0.1)
    assert point.coverage == 1.0
    assert not point.within(1_000)  # one call in a hundred failed


def test_a_point_whose_calls_left_late_is_not_reported() -> None:
    late = summarise(outcome(np.full(500, 3.0), lag_ms=MAX_LAG_MS + 1), what="x", arrivals="poisson", rate=9, seconds=5)
    assert late.latency_ms == {}
    assert "the generator cannot keep 9 calls/s here" in late.withheld
    assert not late.within(1_000)
    assert summarise(outcome(np.full(500, 3.0)), what="x", arrivals="poisson", rate=9, seconds=5).within(1_000)


def test_back_to_normal_is_the_last_bad_half_second() -> None:
    ms = np.full(800, 5.0)
    assert back_to_normal_s(outcome(ms), 10.0) == 0.0
    ms[130:140] = 50.0  # calls due from 1.3 to 1.4 s
    assert back_to_normal_s(outcome(ms), 10.0) == 1.5
    ms[-5:] = 50.0
    assert back_to_normal_s(outcome(ms), 10.0) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rate", "0.01"], "make no call in 8 s: raise one of them"),
        (["--start-rate", "-1"], "a rate of -1 calls a second is not acceptable: give above 0 to 1e"),
        (["--seconds", "0"], "0 seconds of load is not acceptable"),
        (["--rate", "0"], "a rate of 0 calls a second is not acceptable"),
        (["--connections", "0"], "--connections 0 is not acceptable: give 1 to 1,000"),
        (["--p99-ms", "nan"], "--p99-ms nan is not acceptable: give 0.01 to 60,000"),
        (["--target", "x:1", "--set", "threads=1"], "--target is a server that runs: --store, --checkpoint and --set"),
        (["--zipf", "9"], "a Zipf exponent of 9 is not acceptable"),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InvalidParams, match=sentence):
        load.main(arguments)


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(Unavailable, match=r"the server at 127\.0\.0\.1:9 does not answer \(UNAVAILABLE.*host:port"):
        describe("127.0.0.1:9")


def test_texts_come_from_a_file_or_the_catalogue(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "texts.txt"
    file.write_text("red dress\n\n red dress\nblue shoes\n")
    assert texts_of(file) == ["red dress", "blue shoes"]
    file.write_text("\n")
    with pytest.raises(InvalidData, match="has no text: give a UTF-8 file"):
        texts_of(file)
    with pytest.raises(InvalidData, match="cannot be read"):
        texts_of(tmp_path / "none")
    assert len(texts_of(None)) > 100


@pytest.mark.long
def test_a_small_store_is_built_served_and_loaded(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    arguments = ["--rows", "2000", "--dims", "16", "--workers", "1", "--rate", "40", "--seconds", "2", "--warm-up", "1"]
    load.main([*arguments, "--store", str(tmp_path / "store"), "--out", str(tmp_path / "rows.jsonl")])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    constant, poisson = figures["vector"]["points"]
    assert constant["calls"] == 80
    assert constant["errors"] == {}
    assert constant["recall_at_100"] >= 0.95
    assert poisson["coverage"] == 1.0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == ["vector warm-up", "vector at 100 %", "vector at 100 %"]
