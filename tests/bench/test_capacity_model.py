"""The capacity model against queueing theory, the same for the same seed, and plans that follow from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity import main as capacity_main
from bench.capacity.costs import Costs, read_costs
from bench.capacity.main import main
from bench.capacity.model import Cell, simulate
from bench.capacity.plan import Target, make_plan
from bench.capacity.report import write_report
from bench.capacity.station import BatchStation, Station, after
from retrieval.errors import InvalidParams

COSTS = Costs(
    search_points=((10_000, 60.0), (1_000_000, 200.0)), cv=0.2, leaf_call_us=200.0, broker_call_us=250.0,
    broker_leaf_us=100.0, hop_us=50.0, cache_hit_us=10.0, encode_call_us=500.0, encode_text_us=400.0,
    bytes_per_row=900.0, recall_at_100=0.95, machine={"cpu": "none"},
)  # fmt: skip


def run_queue(servers: int, load: float, *, fixed: bool, jobs: int = 25_000, seed: int = 3) -> Station:
    """Poisson arrivals at a station whose jobs take 1 s in the mean; `load` is its utilisation."""
    env = simpy.Environment()
    station = Station(env, servers)
    rng = np.random.default_rng(seed)
    at = 0.0
    for gap, service in zip(rng.exponential(1 / (load * servers), jobs), rng.exponential(1.0, jobs), strict=True):
        at += float(gap)
        after(env, at, lambda s=1.0 if fixed else float(service): station.submit(s, lambda: None))  # type: ignore[misc]
    env.run()
    return station


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waits_of_a_single_server_are_those_of_m_m_1(load: float) -> None:
    wait = run_queue(1, load, fixed=False).mean_wait_s()
    assert wait == pytest.approx(load / (1 - load), rel=0.12)  # measured within 6 %


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_waits_of_fixed_services_are_those_of_m_d_1(load: float) -> None:
    # Pollaczek and Khinchine: half of M/M/1
    wait = run_queue(1, load, fixed=True).mean_wait_s()
    assert wait == pytest.approx(load / (1 - load) / 2, rel=0.12)


@pytest.mark.parametrize(("servers", "load"), [(2, 0.7), (4, 0.8), (8, 0.8)])
def test_waits_of_several_servers_are_those_of_m_d_c(servers: int, load: float) -> None:
    # Erlang's C for M/M/c, and Cosmetatos' correction (1975) for fixed services
    offered = servers * load
    terms = np.cumprod([1.0, *(offered / n for n in range(1, servers + 1))])
    queued = terms[-1] / (1 - load)
    probability = queued / (terms[:-1].sum() + queued)
    m_m_c = probability / (servers * (1 - load))
    correction = 1 + (1 - load) * (servers - 1) * (np.sqrt(4 + 5 * servers) - 2) / (16 * load * servers)
    assert run_queue(servers, load, fixed=False).mean_wait_s() == pytest.approx(m_m_c, rel=0.15)
    assert run_queue(servers, load, fixed=True).mean_wait_s() == pytest.approx(m_m_c / 2 * correction, rel=0.15)


@given(servers=st.integers(1, 5), services=st.lists(st.floats(0.01, 5), min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_no_work_is_lost_or_done_twice(servers: int, services: list[float]) -> None:
    env = simpy.Environment()
    host = Station(env, 2)
    station = Station(env, servers, on=host)
    done: list[int] = []
    for number, service in enumerate(services):
        station.submit(service, lambda number=number: done.append(number))  # type: ignore[misc]
    env.run()
    assert sorted(done) == list(range(len(services)))
    assert host.busy_s == pytest.approx(sum(services))
    assert env.now >= sum(services) / min(2, servers) - 1e-9  # a process needs a core of its host


def test_a_job_that_nobody_wants_any_more_is_dropped_before_it_starts() -> None:
    env = simpy.Environment()
    station = Station(env, 1)
    done: list[str] = []
    station.submit(1.0, lambda: done.append("first"))
    station.submit(1.0, lambda: done.append("never"), lambda: False)
    station.submit(1.0, lambda: done.append("third"))
    env.run()
    assert (done, station.dropped, env.now) == (["first", "third"], 1, 2.0)


def test_texts_that_wait_go_together() -> None:
    env = simpy.Environment()
    tower = BatchStation(env, call_s=1.0, each_s=0.5, most=3)
    ended: list[float] = []
    for _ in range(6):
        tower.submit(lambda: ended.append(env.now))
    env.run()
    assert ended == [1.5, 4.0, 4.0, 4.0, 6.0, 6.0]  # one alone, then three, then two


CELL = Cell(groups=((100_000,) * 4,) * 3, brokers=2, copies=2)


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    first, again, other = (simulate(CELL, COSTS, rate=800, requests=1_500, seed=seed) for seed in (1, 1, 2))
    assert first.latency_s.tobytes() == again.latency_s.tobytes()
    assert (first.utilisation, first.extra) == (again.utilisation, again.extra)
    assert first.latency_s.tobytes() != other.latency_s.tobytes()


def test_an_idle_cell_takes_the_sum_of_its_parts() -> None:
    alone = replace(CELL, groups=((100_000,),), texts=False, copies=1)
    found = simulate(alone, replace_costs(cv=0.0), rate=5, requests=1_000, seed=1)
    work_us = 250 + 100 + 200 + COSTS.search_s(100_000) * 1e6
    assert found.quantile_ms(0.5) == pytest.approx((work_us + 2 * (50 + 100)) / 1e3, rel=0.001)


def test_utilisation_follows_from_rate_and_cost() -> None:
    found = simulate(replace(CELL, hedge_budget=0.0), COSTS, rate=900, requests=6_000, seed=1)
    leaf_s = (200e-6 + 4 * COSTS.search_s(100_000)) / 2
    assert found.utilisation["leaf"] == pytest.approx(900 * leaf_s, rel=0.05)
    assert found.utilisation["broker"] == pytest.approx(900 * (0.8 * 10 + 250 + 3 * 100) * 1e-6 / 2, rel=0.05)


def test_hedging_takes_the_tail_away_within_its_budget() -> None:
    late = replace(CELL, slow=0.01, slow_s=0.2, texts=False)
    bare = simulate(replace(late, hedge_budget=0.0), COSTS, rate=400, requests=4_000, seed=1)
    hedged = simulate(late, COSTS, rate=400, requests=4_000, seed=1)
    assert bare.quantile_ms(0.99) > 200
    assert hedged.quantile_ms(0.99) < 0.4 * bare.quantile_ms(0.99)
    assert 0 < hedged.extra <= 0.05
    assert bare.extra == 0


def replace_costs(**values: float) -> Costs:
    return Costs.model_validate({**COSTS.model_dump(), **values})


def test_search_grows_with_the_logarithm_of_the_rows() -> None:
    assert COSTS.search_s(10_000) == pytest.approx(60e-6)
    assert COSTS.search_s(100_000) == pytest.approx(130e-6)
    assert COSTS.search_s(10**8) == pytest.approx(340e-6)
    assert COSTS.search_s(1_000) == pytest.approx(6e-6)
    assert Costs.model_validate({**COSTS.model_dump(), "search_points": [(1_000, 50.0)]}).search_s(10**6) == (
        pytest.approx(100e-6)
    )


TARGET = Target(rate=20_000, pins=40_000_000, products=4_000_000, rows_per_shard=1_000_000, requests=1_000)


@pytest.fixture(scope="module")
def planned() -> tuple[Target, object]:
    return TARGET, make_plan(TARGET, COSTS, Cell(groups=((1,),)))


def test_a_plan_keeps_its_bound_and_its_rate(planned: tuple[Target, object], tmp_path: Path) -> None:
    plan = planned[1]
    best = plan.best  # type: ignore[attr-defined]
    assert best.p99_ms <= TARGET.p99_ms
    assert best.cells * best.cell_rate >= TARGET.rate
    assert best.leaf_cores == best.cells * 2 * best.calls
    assert max(best.utilisation.values()) < 0.9
    stress = {row["what"]: row for row in plan.stress}  # type: ignore[attr-defined]
    assert stress["half the load"]["p99_ms"] < stress["as planned"]["p99_ms"]
    assert not stress["a copy of every leaf lost"]["keeps"]
    files = write_report(
        tmp_path, target=TARGET, costs=COSTS, assumed={"cache_hit": 0.8}, plan=plan,  # type: ignore[arg-type]
        curve=[(0.5, 1.0, 2.0), (1.0, 2.0, 9.0)], checked=[], facts={"commit": "none"},
    )  # fmt: skip
    assert {path.name for path in files} >= {"rows.jsonl", "report.md", "costs.json"}
    assert f"**{best.cores:,} cores on {best.hosts:,} hosts**" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "rows.jsonl").read_text())["plan"]["best"]["cores"] == best.cores
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_bound_that_nothing_keeps_is_said() -> None:
    plan = make_plan(replace(TARGET, p99_ms=0.5), COSTS, Cell(groups=((1,),)))
    assert plan.best is None
    assert plan.breaks_first.startswith("broker (")
    assert plan.breaks_first.endswith(" ms on an idle fleet)")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--costs", "nowhere.json"], "cannot read nowhere.json: no such file"),
        (["--rate", "0"], "rate = 0 is not acceptable: give a number above 0"),
        (["--cost", "hop_us"], "--cost 'hop_us' is not name=number: write for example --cost hop_us=80"),
        (["--cost", "speed=3"], "cost speed is not acceptable: extra inputs are not permitted"),
        (["--cache-hit", "3"], "cache_hit = 3 is not acceptable: it is a share, 0 to 1"),
        (["--network-us", "nan"], "network_us = nan is not acceptable: give microseconds, 0 or more"),
        (["--core-price", "-1"], "core_price = -1 is not acceptable: give 0 or more"),
        (["--rate", "inf"], "rate = inf is not acceptable"),
        (["--seed", "-1"], "seed = -1 is not acceptable: give 0 or more"),
        (["--requests", "10"], "requests = 10 are too few for a p99: give 1,000 or more"),
        (["--rates", "10,x"], "'x' is not acceptable here: give a number above 0"),
        (["--rows-per-shard", "800000000"], "a leaf of 2 shards needs .* GiB, a host has 512: give larger hosts"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    COSTS.write(tmp_path / "costs.json")
    given_costs = [] if "--costs" in arguments else ["--costs", str(tmp_path / "costs.json")]
    with pytest.raises(InvalidParams, match=sentence):
        main([*given_costs, "--out", str(tmp_path / "out"), *arguments])


def test_a_cut_that_no_host_can_hold_is_left_out_and_what_if_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    COSTS.write(tmp_path / "costs.json")
    monkeypatch.setattr(capacity_main, "OUT", tmp_path / "reports")
    main(["--costs", str(tmp_path / "costs.json"), "--cost", "hop_us=7", "--requests", "1000", "--host-gib", "150"])
    said = capsys.readouterr().out
    assert "written" not in said
    assert "its leaves are too large for a host" in said
    assert json.loads(said.splitlines()[-1])["best"]["hosts"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.json"]


def test_costs_that_are_no_costs(tmp_path: Path) -> None:
    (tmp_path / "costs.json").write_text("{")
    with pytest.raises(InvalidParams, match=r"costs.json is not JSON \(.*\): give a file that --calibrate wrote"):
        read_costs(tmp_path / "costs.json")
    COSTS.write(tmp_path / "costs.json")
    assert read_costs(tmp_path / "costs.json", ["hop_us=7"]).hop_us == 7
