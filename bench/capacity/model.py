"""One cell of a fleet in simulated time: brokers, leaves with copies, hedging, the query cache and the tower.

A cell is a slice that stands alone: some brokers, and `copies` of every leaf group, a group being the shards that one
call asks for. A fleet of n cells serves n times a cell's rate at a cell's latency, so a cell is all that is simulated;
pooling copies over cells could only shorten queues. Hedging is decided by the server's own class. Time on the network
and in wake-ups is added, not queued for. Knows nothing about prices or how costs were measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from bench.capacity.costs import Costs
from bench.capacity.station import BatchStation, Done, Station, after
from retrieval.errors import InvalidParams
from retrieval.serving.fleet.leaves import Hedging
from retrieval.types import AnyArray

_DRAWN = 65_536
_WARM_UP = 0.1  # share of the requests that are not counted
_US = 1e-6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """groups: rows of the shards of each leaf group, which a call searches one after another.

    workers: processes of each copy of a group, each with a core, asked in turn; cores: of a host that all processes
    share, 0 for a core each; cache_hit: share of the requests that need no tower; background: share of the shared cores
    that other programs take; network_us: of a round trip between hosts; slow: share of leaf calls that take slow_s
    longer.
    """

    groups: tuple[tuple[int, ...], ...]
    brokers: int = 1
    copies: int = 2
    workers: int = 1
    cores: int = 0
    cache_hit: float = 0.8
    texts: bool = True
    max_batch: int = 64
    hedge_budget: float = 0.05
    network_us: float = 100.0
    background: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.2
    with_sender: bool = False

    def __post_init__(self) -> None:
        if not self.groups or min(self.brokers, self.copies, self.workers) < 1:
            raise InvalidParams("a cell has at least one group, one broker, one copy and one worker")
        for name in ("cache_hit", "background", "slow", "hedge_budget"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise InvalidParams(f"{name} = {value:g} is not acceptable: it is a share, 0 to 1")
        if not 0 <= self.network_us < 1e9:
            raise InvalidParams(f"network_us = {self.network_us:g} is not acceptable: give microseconds, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """latency_s: float64 [requests counted], in order of completion; utilisation: by kind of station, its mean over the
    stations; wait_s: mean wait by kind; extra: hedges over first calls.
    """

    latency_s: AnyArray
    utilisation: dict[str, float]
    wait_s: dict[str, float]
    extra: float
    seconds: float

    def quantile_ms(self, share: float) -> float:
        """A percentile of the latency in milliseconds."""
        return float(np.quantile(self.latency_s, share)) * 1e3


def simulate(cell: Cell, costs: Costs, *, rate: float, requests: int, seed: int) -> Simulated:
    """Send `requests` Poisson arrivals at `rate` per second through a cell; the same for the same seed."""
    if not rate > 0 or requests < 100:
        raise InvalidParams(f"{requests:,} requests at {rate:g}/s make no simulation: at least 100, above 0/s")
    run = _Run(cell, costs, rate, requests, seed)
    run.env.run()
    return run.result()


@dataclass(eq=False)
class _Request:
    began: float
    broker: int
    missing: int = 0


@dataclass(eq=False)
class _LeafCall:
    request: _Request
    group: int
    turn: int
    began: float
    answered: bool = False


class _Run:
    def __init__(self, cell: Cell, costs: Costs, rate: float, requests: int, seed: int) -> None:
        self.env = env = simpy.Environment()
        self._cell, self._costs, self._requests = cell, costs, requests
        self._rng = np.random.default_rng([seed, 0])
        self._jitter = _jitter(np.random.default_rng([seed, 1]), costs.cv)
        self._uniform = _uniform(np.random.default_rng([seed, 2]))
        self._host = Station(env, cell.cores) if cell.cores else None
        self._sender = Station(env, 1, on=self._host)
        self._brokers = [Station(env, 1, on=self._host) for _ in range(cell.brokers)]
        self._towers = [
            BatchStation(env, call_s=costs.encode_call_us * _US, each_s=costs.encode_text_us * _US, most=cell.max_batch)
            for _ in range(cell.brokers)
        ]
        self._leaves = [
            [[Station(env, 1, on=self._host) for _ in range(cell.workers)] for _ in range(cell.copies)]
            for _ in cell.groups
        ]
        self._work = [costs.leaf_call_us * _US + sum(map(costs.search_s, rows)) for rows in cell.groups]
        self._hedging = [Hedging(cell.hedge_budget) for _ in range(cell.brokers)]
        self._names = [tuple(f"{group}/{copy}" for copy in range(cell.copies)) for group in range(len(cell.groups))]
        self._ended: list[float] = []
        self._began: list[float] = []
        self._turns = 0
        gaps = self._rng.exponential(1 / rate, requests)
        self._arrivals = iter(np.cumsum(gaps).tolist())
        self._next_arrival()
        if self._host is not None and cell.background:
            self._disturb()

    def _next_arrival(self) -> None:
        at = next(self._arrivals, None)
        if at is not None:
            after(self.env, at - self.env.now, self._arrive)

    def _arrive(self) -> None:
        self._next_arrival()
        request = _Request(self.env.now, self._turns % self._cell.brokers)
        self._turns += 1
        if self._cell.with_sender:
            self._sender.submit(self._costs.sender_call_us / 2 * _US, lambda: self._encode(request))
        else:
            self._encode(request)

    def _encode(self, request: _Request) -> None:
        if not self._cell.texts:
            self._ask(request)
        elif next(self._uniform) < self._cell.cache_hit:
            self._broker(request, self._costs.cache_hit_us, lambda: self._ask(request))
        else:
            self._towers[request.broker].submit(lambda: self._ask(request))

    def _ask(self, request: _Request) -> None:
        costs, groups = self._costs, len(self._cell.groups)
        # half of what a broker spends on a request and on a call comes before the leaves, half when they have answered
        before = (costs.broker_call_us + groups * costs.broker_leaf_us) / 2
        self._broker(request, before, lambda: self._fan_out(request))

    def _fan_out(self, request: _Request) -> None:
        request.missing = len(self._cell.groups)
        hedging = self._hedging[request.broker]
        turn = int(next(self._uniform) * (1 << 30))
        for group in range(len(self._cell.groups)):
            call = _LeafCall(request, group, turn, self.env.now)
            hedging.note_call()
            self._send(call, turn)
            if self._cell.copies > 1 and (wait := hedging.wait_s(self._names[group])) is not None:
                after(self.env, wait, lambda call=call: self._hedge(call))  # type: ignore[misc]

    def _hedge(self, call: _LeafCall) -> None:
        if not call.answered and self._hedging[call.request.broker].take():
            self._broker(call.request, self._costs.broker_leaf_us / 2, lambda: self._send(call, call.turn + 1))

    def _send(self, call: _LeafCall, turn: int) -> None:
        copy = self._leaves[call.group][turn % self._cell.copies]
        worker = copy[turn // self._cell.copies % self._cell.workers]
        seconds = self._work[call.group] * next(self._jitter)
        if self._cell.slow and next(self._uniform) < self._cell.slow:
            after(self.env, self._cell.slow_s, lambda: self._serve(worker, seconds, call))
        else:
            self._serve(worker, seconds, call)

    def _serve(self, worker: Station, seconds: float, call: _LeafCall) -> None:
        worker.submit(seconds, lambda: self._answer(call), lambda: not call.answered)

    def _answer(self, call: _LeafCall) -> None:
        if call.answered:
            return
        call.answered = True
        self._hedging[call.request.broker].note_latency(self._names[call.group], self.env.now - call.began)
        self._broker(call.request, self._costs.broker_leaf_us / 2, lambda: self._received(call.request))

    def _received(self, request: _Request) -> None:
        request.missing -= 1
        if not request.missing:
            self._broker(request, self._costs.broker_call_us / 2, lambda: self._merged(request))

    def _merged(self, request: _Request) -> None:
        if self._cell.with_sender:
            self._sender.submit(self._costs.sender_call_us / 2 * _US, lambda: self._end(request))
        else:
            self._end(request)

    def _end(self, request: _Request) -> None:
        self._began.append(request.began)
        self._ended.append(self.env.now)

    def _broker(self, request: _Request, us: float, done: Done) -> None:
        self._brokers[request.broker].submit(us * _US, done)

    def _disturb(self) -> None:
        # other programs: slices of 3 ms, what a busy core gives before it looks round, as a Poisson stream
        assert self._host is not None
        if len(self._ended) >= self._requests:
            return
        mean = 0.003 / (self._cell.background * self._cell.cores)
        self._host.submit(0.003, lambda: None)
        after(self.env, float(self._rng.exponential(mean)), self._disturb)

    def result(self) -> Simulated:
        constant = 2 * (self._costs.hop_us + self._cell.network_us) * _US  # caller to broker, broker to leaf
        counted = slice(int(len(self._ended) * _WARM_UP), None)
        latency = np.array(self._ended)[counted] - np.array(self._began)[counted] + constant
        seconds = self._ended[-1]
        workers = [worker for group in self._leaves for copy in group for worker in copy]
        used = {
            "broker": float(np.mean([each.utilisation(seconds) for each in self._brokers])),
            "leaf": float(np.mean([each.utilisation(seconds) for each in workers])),
            "tower": float(np.mean([each.busy_s / seconds for each in self._towers])),
        }
        waits: dict[str, Any] = {
            "broker": float(np.mean([each.mean_wait_s() for each in self._brokers])),
            "leaf": float(np.mean([each.mean_wait_s() for each in workers])),
        }
        if self._host is not None:
            used["host"] = self._host.utilisation(seconds)
        calls = sum(each.calls for each in self._hedging)
        extra = sum(each.extra for each in self._hedging) / max(1, calls)
        return Simulated(latency_s=latency, utilisation=used, wait_s=waits, extra=extra, seconds=seconds)


def _jitter(rng: np.random.Generator, cv: float) -> Iterator[float]:
    """Factors of mean 1 and this coefficient of variation, log-normal, for ever."""
    sigma = float(np.sqrt(np.log1p(cv * cv)))
    while True:
        yield from rng.lognormal(-sigma * sigma / 2, sigma, _DRAWN).tolist()


def _uniform(rng: np.random.Generator) -> Iterator[float]:
    while True:
        yield from rng.random(_DRAWN).tolist()
