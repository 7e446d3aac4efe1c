"""The model held against real servers: leaves and a broker on this machine, at rates that it can run.

The same fleet is simulated: all its processes and the load generator share the cores of the host. The real ones go
before all other work of the machine where that is allowed, and what that work took nevertheless is told beside the
figures; the model knows nothing of it. Compared are p50, p99 and the cores that all of them used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.capacity.calibrate import LEAVES, K
from bench.capacity.costs import Costs
from bench.capacity.fleet_load import send
from bench.capacity.fleet_servers import fleet_servers
from bench.capacity.model import Cell, simulate
from bench.load_generator import Generator
from bench.load_queries import describe, vector_requests
from bench.load_store import ENTITY_TYPE
from retrieval.store import Store

_LIMIT_MS = 1.0  # of the sender's lag, beyond which its latencies are not the server's alone
_REQUESTS = 4_000  # simulated at least


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One rate: what was measured, what the model says. Cores are those of leaves, broker and sender together.

    background: share of the host's cores that other programs took; lag_p99_ms: how late calls left.
    """

    rate: float
    calls: int
    failed: int
    lag_p99_ms: float
    background: float
    p50_ms: float
    p99_ms: float
    cores: float
    model_p50_ms: float
    model_p99_ms: float
    model_cores: float

    @property
    def kept_time(self) -> bool:
        """Whether the sender kept its instants, as the load measurement asks of itself."""
        return self.lag_p99_ms <= _LIMIT_MS and not self.failed


def validate(
    store: Path, costs: Costs, rates: Sequence[float], seconds: float, seed: int, say: Callable[[str], None]
) -> list[Checked]:
    """One row per rate."""
    place = Store(store)
    manifest = place.manifest(ENTITY_TYPE, place.current(ENTITY_TYPE))
    numbers = list(range(len(manifest.shards)))
    parts = [numbers[first::LEAVES] for first in range(LEAVES)]
    cores = len(os.sched_getaffinity(0))
    groups = tuple(tuple(manifest.shards[number].rows for number in part) for part in parts)
    cell = Cell(
        groups=groups, copies=1, cores=cores, texts=False, network_us=0.0, hedge_budget=0.0, with_sender=True
    )  # fmt: skip
    found = []
    with fleet_servers(store) as fleet:
        servers = [fleet.leaf(part) for part in parts]
        broker = fleet.broker(servers)
        servers.append(broker)
        requests = vector_requests(describe(broker.target), K)
        sender = Generator(broker.target, requests, connections=4)
        try:
            send(sender, servers, requests=len(requests), rate=rates[0], seconds=3.0, seed=seed)
            for rate in rates:
                real = send(sender, servers, requests=len(requests), rate=rate, seconds=seconds, seed=seed)
                calls = max(_REQUESTS, int(rate * seconds))
                model = simulate(cell, costs, rate=rate, requests=calls, seed=seed)
                found.append(
                    Checked(
                        rate=rate,
                        calls=real.calls,
                        failed=real.failed,
                        lag_p99_ms=round(real.lag_p99_ms, 3),
                        background=round(real.background, 3),
                        p50_ms=round(real.p50_ms, 2),
                        p99_ms=round(real.p99_ms, 2),
                        cores=round(real.cores, 3),
                        model_p50_ms=round(model.quantile_ms(0.5), 2),
                        model_p99_ms=round(model.quantile_ms(0.99), 2),
                        model_cores=round(model.utilisation["host"] * cores, 3),
                    )
                )
                say(str(found[-1]))
        finally:
            sender.close()
    return found
