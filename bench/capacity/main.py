"""How many cores and hosts a fleet needs: measured costs, a seeded simulation of a cell, a plan, a report.

    retrieval bench capacity                     # by the costs of the report that is there; only prints
    retrieval bench capacity --cost hop_us=80    # what if
    retrieval bench capacity --calibrate         # measures this machine first, about two minutes, and writes its report
    retrieval bench capacity --calibrate --validate

Costs come from --costs, each may be replaced by --cost name=number, or are measured by --calibrate against leaves,
brokers and the tower of this machine. --validate simulates the fleet that this machine can run and states the error.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench.arguments import parser_of
from bench.capacity.costs import Costs, read_costs
from bench.capacity.fleet_load import go_first
from bench.capacity.model import Cell, simulate
from bench.capacity.plan import Plan, Target, make_plan
from bench.capacity.report import write_report
from bench.capacity.validate import Checked, validate
from bench.load_store import make_store
from bench.recall_latency.machine import commit
from retrieval.errors import InvalidParams

OUT = Path(__file__).parents[1] / "reports" / "capacity"
_CURVE = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.2)
_ROWS, _SHARDS, _D = 100_000, 4, 256


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure if asked, plan, write, print."""
    chosen = _parser().parse_args(arguments)
    began = time.monotonic()
    if chosen.out is None and (chosen.calibrate or chosen.validate):
        chosen.out = OUT  # what was measured is kept; what is only asked must not take its place
    target = Target(**{name: getattr(chosen, name) for name in Target.__dataclass_fields__})
    base = Cell(
        groups=((1,),), copies=chosen.copies, workers=chosen.workers, cache_hit=chosen.cache_hit,
        hedge_budget=chosen.hedge_budget, network_us=chosen.network_us,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stores = list(chosen.store or ())
        if chosen.calibrate or chosen.validate:
            _say("servers go before all other work" if go_first() else "other work of the machine disturbs the servers")
        if (chosen.calibrate or chosen.validate) and not stores:
            stores = [Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store"]
            make_store(stores[0], rows=_ROWS, d=_D, kind="hnsw", shards=_SHARDS)
        costs = _costs(chosen, stores)
        checked: list[Checked] = []
        if chosen.validate:
            checked = validate(stores[0], costs, chosen.rates, chosen.seconds, target.seed, _say)
    plan = make_plan(target, costs, base, lambda what, done, of: _say(f"plan: {what} ({done} of {of})"))
    files: list[Path] = []
    if chosen.out is not None:
        files = write_report(
            chosen.out,
            target=target,
            costs=costs,
            assumed={
                "cache_hit": base.cache_hit,
                "network_us": base.network_us,
                "copies": base.copies,
                "hedge_budget": base.hedge_budget,
                **{f"{name} (in place of the measured cost)": value for name, value in _pairs(chosen.cost)},
            },
            plan=plan,
            curve=_curve(target, costs, base, plan),
            checked=checked,
            facts={"commit": commit(), "seconds": round(time.monotonic() - began, 1), "note": chosen.note},
        )
    _tell(plan, target, files)


def _costs(chosen: argparse.Namespace, stores: Sequence[Path]) -> Costs:
    if not chosen.calibrate:
        return read_costs(chosen.costs, chosen.cost or ())
    from bench.capacity.calibrate import calibrate  # needs torch, which planning does not

    costs = calibrate(stores, chosen.checkpoint, chosen.calls, _say)
    chosen.out.mkdir(parents=True, exist_ok=True)
    costs.write(chosen.out / "costs.json")
    return read_costs(chosen.out / "costs.json", chosen.cost or ())


def _pairs(given: Sequence[str] | None) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (pair.partition("=") for pair in given or ())]


def _curve(target: Target, costs: Costs, base: Cell, plan: Plan) -> list[tuple[float, float, float]]:
    if plan.best is None:
        return []
    cell = replace(base, groups=target.groups(plan.best.shards_per_call), brokers=plan.best.brokers_per_cell)
    points = []
    for share in _CURVE:
        found = simulate(cell, costs, rate=share * plan.best.cell_rate, requests=target.requests, seed=target.seed)
        points.append((share, round(found.quantile_ms(0.5), 3), round(found.quantile_ms(0.99), 3)))
    return points


def _tell(plan: Plan, target: Target, files: Sequence[Path]) -> None:
    print("shards/call  calls  cell req/s  cells  leaf cores  broker cores  tower cores  hosts  p99 ms  $/million")
    for cut, each in plan.fleets:
        if each is None:
            print(f"{cut:11}  no rate keeps p99 <= {target.p99_ms:g} ms, or its leaves are too large for a host")
            continue
        print(
            f"{cut:11} {each.calls:6} {each.cell_rate:11,.0f} {each.cells:6,} {each.leaf_cores:11,} "
            f"{each.broker_cores:13,} {each.tower_cores:12,} {each.hosts:6,} {each.p99_ms:7.2f} "
            f"{each.dollars_per_million:10.2f}"
        )
    written = f"; written: {', '.join(map(str, files))}" if files else ""
    print(f"breaks first: {plan.breaks_first}{written}")
    best = plan.best
    figures = {} if best is None else {**asdict(best), "cores": best.cores, "hosts": best.hosts}
    print(json.dumps({"rate": target.rate, "best": figures, "breaks_first": plan.breaks_first}))


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("capacity", __doc__)
    add = parser.add_argument
    add("--calibrate", action="store_true", help="measure the costs on this machine, with nothing else running on it")
    add("--validate", action="store_true", help="compare the model with real servers on this machine")
    add("--costs", type=Path, default=OUT / "costs.json", help="costs that an earlier --calibrate wrote")
    add("--cost", action="append", metavar="NAME=NUMBER", help="another value for one of them")
    add("--store", type=Path, action="append", help="store to measure; the first is served, each tells of a shard size")
    add("--checkpoint", type=Path, help="query tower to measure; else the default encoder")
    add("--calls", type=_positive_int, default=300, help="of each load of the calibration, three of each kind")
    add("--rates", type=_rates, default=[40.0, 80.0, 120.0, 160.0], help="of the validation, such as 100,200")
    add("--seconds", type=_positive, default=10.0, help="of each rate of the validation")
    for name, field in Target.__dataclass_fields__.items():
        kind = int if field.type == "int" else float
        add(f"--{name.replace('_', '-')}", type=kind, default=field.default, help=f"default {field.default:,}")
    add("--cache-hit", type=float, default=0.8, help="share of the requests whose text is in the query cache")
    add("--copies", type=int, default=2, help="of every leaf, which hedging needs")
    add("--workers", type=int, default=1, help="processes of each copy in a cell")
    add("--hedge-budget", type=float, default=0.05, help="extra leaf calls as a share of all")
    add("--network-us", type=float, default=100.0, help="of a round trip between two hosts")
    add("--note", default="", help="a sentence for the report, such as on what else the machine did")
    add("--out", type=Path, help="folder of the report; bench/reports/capacity for one that measures, else none")
    return parser


def _rates(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]


def _positive(text: str) -> float:
    value = float(text) if text.replace(".", "", 1).isdigit() else 0.0
    if not value > 0:
        raise InvalidParams(f"{text!r} is not acceptable here: give a number above 0")
    return value


def _positive_int(text: str) -> int:
    return max(1, int(_positive(text)))


if __name__ == "__main__":
    main()
