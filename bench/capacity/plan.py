"""From one cell to a fleet: the highest rate a cell keeps, how many cells that makes, what it weighs and costs.

Several ways to cut the rows into leaf calls are tried: more shards in a call make fewer calls and slower ones. For each
the rate of a cell is searched for at which p99 keeps its bound, and the cheapest fleet is taken. Then it is put under
stress: more load, a copy of every leaf lost, a cold cache, slow calls with and without hedging. What breaks first is
the kind of station that has the least left. Knows nothing about how costs were measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.capacity.costs import Costs
from bench.capacity.model import Cell, Simulated, simulate
from retrieval.errors import InvalidParams

Progress = Callable[[str, int, int], None]
_SHARDS_PER_CALL = (2, 4, 8, 16, 32)
_FILL = 0.8  # of the busiest kind of station: beyond it no cell is planned, whatever its latency says
_STEPS = 6
_BUSY = 0.6  # share of its time from which a kind of station is what limits a fleet


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the fleet has to do, and what hosts are and cost. Prices are dollars an hour."""

    rate: float = 300_000.0
    pins: int = 1_000_000_000
    products: int = 100_000_000
    p99_ms: float = 20.0
    rows_per_shard: int = 10_000_000
    host_cores: int = 64
    host_gib: float = 512.0
    core_price: float = 0.04
    gib_price: float = 0.005
    requests: int = 6_000
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("rate", "pins", "p99_ms", "rows_per_shard", "host_cores", "host_gib"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise InvalidParams(f"{name} = {value:g} is not acceptable: give a number above 0")
        for name in ("products", "core_price", "gib_price", "seed"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise InvalidParams(f"{name} = {value:g} is not acceptable: give 0 or more")
        if self.requests < 1_000:
            raise InvalidParams(f"requests = {self.requests:,} are too few for a p99: give 1,000 or more")

    def groups(self, shards_per_call: int) -> tuple[tuple[int, ...], ...]:
        """Rows of the shards of each leaf group; a call stays within its entity type."""
        found: list[tuple[int, ...]] = []
        for rows in (self.pins, self.products):
            shards = math.ceil(rows / self.rows_per_shard)
            sizes = [rows // shards + (number < rows % shards) for number in range(shards)]
            found += [tuple(sizes[at : at + shards_per_call]) for at in range(0, shards, shards_per_call)]
        return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A fleet of equal cells. utilisation: at its rate, by kind; hosts: leaf_hosts and broker_hosts together."""

    shards_per_call: int
    calls: int
    brokers_per_cell: int
    cell_rate: float
    cells: int
    leaf_cores: int
    broker_cores: int
    tower_cores: int
    leaf_hosts: int
    broker_hosts: int
    memory_gib: float
    p50_ms: float
    p99_ms: float
    utilisation: dict[str, float]
    extra: float
    dollars_per_hour: float
    dollars_per_million: float

    @property
    def cores(self) -> int:
        """Cores at work: leaves, brokers, towers."""
        return self.leaf_cores + self.broker_cores + self.tower_cores

    @property
    def hosts(self) -> int:
        """Hosts of both kinds."""
        return self.leaf_hosts + self.broker_hosts


@dataclass(frozen=True, kw_only=True)
class Plan:
    """fleets: one per cut, None where no rate keeps the bound or no host holds a leaf; best: the cheapest;
    stress: rows of figures.

    idle_ms: of each cut, what the parts of a request take on an idle fleet, one after another.
    """

    fleets: tuple[tuple[int, Fleet | None], ...]
    idle_ms: dict[int, dict[str, float]]
    best: Fleet | None
    breaks_first: str
    stress: tuple[dict[str, Any], ...]


def make_plan(target: Target, costs: Costs, base: Cell, progress: Progress | None = None) -> Plan:
    """Search the cuts, choose, and put the choice under stress. base: all of a cell but its groups and brokers."""
    sizes = {cut: _leaf_gib(target, costs, cut) for cut in _SHARDS_PER_CALL}
    least = min(sizes, key=lambda cut: sizes[cut])
    if sizes[least] > target.host_gib:
        raise InvalidParams(
            f"a leaf of {least} shards needs {sizes[least]:,.0f} GiB, a host has {target.host_gib:,.0f}: give larger "
            "hosts or smaller shards"
        )
    fleets = []
    for done, shards in enumerate(_SHARDS_PER_CALL):
        if progress is not None:
            progress(f"{shards} shards in a call", done, len(_SHARDS_PER_CALL))
        fits = sizes[shards] <= target.host_gib
        fleets.append((shards, _fleet(target, costs, base, shards) if fits else None))
    found = [fleet for _, fleet in fleets if fleet is not None]
    best = min(found, key=lambda fleet: fleet.dollars_per_million, default=None)
    idle = {cut: _idle_ms(target, costs, base, cut) for cut in _SHARDS_PER_CALL}
    if best is None:
        told = _longest(min(idle.values(), key=lambda parts: sum(parts.values())))
        return Plan(fleets=tuple(fleets), idle_ms=idle, best=None, breaks_first=told, stress=())
    if progress is not None:
        progress("under stress", len(_SHARDS_PER_CALL), len(_SHARDS_PER_CALL))
    cell = replace(base, groups=target.groups(best.shards_per_call), brokers=best.brokers_per_cell)
    return Plan(
        fleets=tuple(fleets),
        idle_ms=idle,
        best=best,
        breaks_first=_breaks_first(best, idle[best.shards_per_call]),
        stress=tuple(_stress(target, costs, cell, best.cell_rate)),
    )


def _breaks_first(fleet: Fleet, idle: dict[str, float]) -> str:
    busiest = max(fleet.utilisation, key=lambda name: fleet.utilisation[name])
    if fleet.utilisation[busiest] >= _BUSY:
        return f"{busiest} ({100 * fleet.utilisation[busiest]:.0f} % busy)"
    return f"latency, before any process is busy: {_longest(idle)}"


def _longest(idle: dict[str, float]) -> str:
    worst = max(idle, key=lambda name: idle[name])
    return f"{worst} ({idle[worst]:.1f} of {sum(idle.values()):.1f} ms on an idle fleet)"


def _idle_ms(target: Target, costs: Costs, base: Cell, shards: int) -> dict[str, float]:
    groups = target.groups(shards)
    tower = costs.encode_call_us + costs.encode_text_us if base.texts and base.cache_hit < 1 else 0.0
    return {
        "tower": round(tower / 1e3, 2),
        "broker": round((costs.broker_call_us + len(groups) * costs.broker_leaf_us) / 1e3, 2),
        "leaf": round(costs.leaf_call_us / 1e3 + max(sum(map(costs.search_s, rows)) for rows in groups) * 1e3, 2),
        "hops and network": round(2 * (costs.hop_us + base.network_us) / 1e3, 2),
    }


def _fleet(target: Target, costs: Costs, base: Cell, shards: int) -> Fleet | None:
    groups = target.groups(shards)
    bare = replace(base, groups=groups)
    work_s = max(costs.leaf_call_us * 1e-6 + sum(map(costs.search_s, rows)) for rows in groups)
    most = _FILL * base.copies * base.workers / (work_s * (1 + base.hedge_budget))
    per_request_us = costs.broker_call_us + len(groups) * costs.broker_leaf_us
    idle = _idle_ms(target, costs, base, shards)
    if base.cache_hit > 0.99:
        idle["tower"] = 0.0  # too few requests meet it to be among the slowest hundredth
    if sum(idle.values()) > target.p99_ms:
        return None  # too slow on an idle fleet already
    # a tower is a thread of its broker's process; both count, and the busier of the two asks for brokers
    missing = 1 - base.cache_hit if base.texts else 0.0
    tower_us = missing * (costs.encode_text_us + costs.encode_call_us / 4)
    brokers = max(1, math.ceil(most * max(per_request_us, tower_us) * 1e-6 / _FILL * 1.05))
    cell = replace(bare, brokers=brokers)
    rate, best = 0.0, None
    low, high, asked = 0.0, most, most
    for _ in range(_STEPS):
        found = simulate(cell, costs, rate=asked, requests=target.requests, seed=target.seed)
        if found.quantile_ms(0.99) <= target.p99_ms and max(found.utilisation.values()) <= _FILL + 0.05:
            rate, best, low = asked, found, asked
            if asked == most:
                break
        else:
            high = asked
        asked = (low + high) / 2
    return None if best is None else _sized(target, costs, cell, shards, rate, best)


def _leaf_gib(target: Target, costs: Costs, shards: int) -> float:
    """Memory of the largest group of shards."""
    return max(sum(rows) for rows in target.groups(shards)) * costs.bytes_per_row / 2**30


def _sized(target: Target, costs: Costs, cell: Cell, shards: int, rate: float, found: Simulated) -> Fleet:
    cells = math.ceil(target.rate / rate)
    workers = cells * cell.copies * cell.workers  # of each group
    # a host holds whole groups, as many as its memory takes, and its cores are shared out among them
    leaf_gib = _leaf_gib(target, costs, shards)
    together = max(1, min(int(target.host_gib / leaf_gib), math.ceil(target.host_cores / workers)))
    leaf_hosts = max(
        math.ceil(len(cell.groups) * workers / target.host_cores), cell.copies * math.ceil(len(cell.groups) / together)
    )
    broker_cores = cells * cell.brokers
    tower_cores = math.ceil(broker_cores * found.utilisation["tower"] / _FILL)
    broker_hosts = max(2, math.ceil((broker_cores + tower_cores) / target.host_cores))
    hosts = leaf_hosts + broker_hosts
    memory = leaf_hosts * min(target.host_gib, together * leaf_gib + target.host_cores * 0.1)
    per_hour = hosts * (target.host_cores * target.core_price + target.host_gib * target.gib_price)
    return Fleet(
        shards_per_call=shards,
        calls=len(cell.groups),
        brokers_per_cell=cell.brokers,
        cell_rate=round(rate, 1),
        cells=cells,
        leaf_cores=len(cell.groups) * workers,
        broker_cores=broker_cores,
        tower_cores=tower_cores,
        leaf_hosts=leaf_hosts,
        broker_hosts=broker_hosts,
        memory_gib=round(memory, 1),
        p50_ms=round(found.quantile_ms(0.5), 2),
        p99_ms=round(found.quantile_ms(0.99), 2),
        utilisation={name: round(value, 3) for name, value in found.utilisation.items()},
        extra=round(found.extra, 4),
        dollars_per_hour=round(per_hour, 2),
        dollars_per_million=round(per_hour / 3_600 / target.rate * 1e6, 4),
    )


def _stress(target: Target, costs: Costs, cell: Cell, rate: float) -> list[dict[str, Any]]:
    trials = [
        ("as planned", cell, rate),
        ("10 % more", cell, 1.1 * rate),
        ("25 % more", cell, 1.25 * rate),
        ("half the load", cell, 0.5 * rate),
        ("a copy of every leaf lost", replace(cell, copies=max(1, cell.copies - 1)), rate),
        ("the same at half the load", replace(cell, copies=max(1, cell.copies - 1)), 0.5 * rate),
        ("no hedging", replace(cell, hedge_budget=0.0), rate),
    ]
    if cell.texts:
        trials.append(("a cold query cache", replace(cell, cache_hit=0.0), rate))
    slow = replace(cell, slow=0.001, slow_s=0.1)
    trials += [
        ("1 leaf call in 1,000 is 100 ms late", slow, rate),
        ("the same without hedging", replace(slow, hedge_budget=0.0), rate),
    ]
    rows = []
    for what, each, load in trials:
        found = simulate(each, costs, rate=load, requests=target.requests, seed=target.seed)
        rows.append(
            {
                "what": what,
                "p50_ms": round(found.quantile_ms(0.5), 2),
                "p99_ms": round(found.quantile_ms(0.99), 2),
                "keeps": found.quantile_ms(0.99) <= target.p99_ms,
                "extra": round(found.extra, 4),
                **{f"{name}_busy": round(value, 3) for name, value in found.utilisation.items()},
            }
        )
    return rows


def as_row(plan: Plan, target: Target) -> dict[str, Any]:
    """The plan as one JSON object."""
    return {
        "target": asdict(target),
        "fleets": [
            {"shards_per_call": cut, "fleet": None if each is None else asdict(each)} for cut, each in plan.fleets
        ],
        "best": None
        if plan.best is None
        else {**asdict(plan.best), "cores": plan.best.cores, "hosts": plan.best.hosts},
        "idle_ms": plan.idle_ms,
        "breaks_first": plan.breaks_first,
        "stress": list(plan.stress),
    }
