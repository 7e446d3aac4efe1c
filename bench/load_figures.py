"""What a load came to: percentiles, rates, errors by status, coverage, stages, and whether the sender kept its word.

A point whose calls left late is not reported: its latencies are withheld and the reason is said. Knows nothing about
gRPC and processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.load_generator import I64, Outcome

MAX_LAG_MS = 5.0  # latency counts from the instant a call was due, so a lag makes it worse, never better
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_WINDOW_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Point:
    """Figures of one load at one rate; latencies are milliseconds from the instant a call was due, of answered calls.

    rate: asked for; offered: calls sent per second; achieved: answers per second; withheld: why latency_ms is empty, or
    "". errors: calls by gRPC status other than OK. sender_cores, server_cores: CPU seconds per second of
    wall time; sender_us: CPU microseconds per call sent, server_us: per answer, which other work disturbs least.
    """

    what: str
    arrivals: str
    rate: float
    offered: float
    achieved: float
    calls: int
    latency_ms: dict[str, float]
    withheld: str
    lag_p99_ms: float
    errors: dict[str, int]
    coverage: float | None
    degraded: int
    stages_us: dict[str, dict[str, float]]
    effort: str
    recall_at_100: float | None
    sender_cores: float
    sender_us: float
    server_cores: float | None = None
    server_us: float | None = None
    load_average: float = 0.0
    seconds: float = 0.0

    @property
    def failed_share(self) -> float:
        """Share of the calls that got no answer."""
        return sum(self.errors.values()) / self.calls

    def within(self, p99_ms: float) -> bool:
        """Whether the rate was kept: p99 under the bound, at most one call in a thousand failed, the sender in time."""
        return not self.withheld and self.latency_ms["p99"] <= p99_ms and self.failed_share <= 0.001


def summarise(
    outcome: Outcome,
    *,
    what: str,
    arrivals: str,
    rate: float,
    seconds: float,
    server_cpu_s: float | None = None,
    load_average: float = 0.0,
) -> Point:
    """The figures of one load."""
    ok = outcome.status == "OK"
    lag = float(np.percentile(outcome.lag_ns, 99)) / 1e6
    withheld = ""
    if lag > MAX_LAG_MS:
        withheld = (
            f"calls left late (p99 of the lag {lag:.2f} ms, the limit is {MAX_LAG_MS:g} ms): the generator cannot keep "
            f"{rate:g} calls/s here, lower the rate or move it to another machine"
        )
    elif not ok.any():
        withheld = "no call was answered"
    names, counts = np.unique(outcome.status[~ok], return_counts=True)
    took_s = max(seconds, float((outcome.due_ns + outcome.latency_ns).max()) / 1e9)
    sending_s = max(seconds, float((outcome.due_ns + outcome.lag_ns).max()) / 1e9)
    return Point(
        what=what,
        arrivals=arrivals,
        rate=round(rate, 1),
        offered=round(len(ok) / sending_s, 1),
        achieved=round(int(ok.sum()) / took_s, 1),
        calls=len(ok),
        latency_ms={} if withheld else quantiles_ms(outcome.latency_ns[ok]),
        withheld=withheld,
        lag_p99_ms=round(lag, 3),
        errors=dict(zip(names.tolist(), counts.tolist(), strict=True)),
        coverage=None if not ok.any() else round(float(outcome.coverage[ok].min()), 6),
        degraded=int(outcome.degraded.sum()),
        stages_us={
            name: {label: round(1e3 * ms, 1) for label, ms in quantiles_ms(ns).items() if label in ("p50", "p99")}
            for name, ns in outcome.stage_ns.items()
            if len(ns)
        },
        effort=outcome.effort,
        recall_at_100=None if outcome.recall_at_100 is None else round(outcome.recall_at_100, 4),
        sender_cores=round(outcome.cpu_s / outcome.wall_s, 3),
        sender_us=round(1e6 * outcome.cpu_s / len(ok), 1),
        server_cores=None if server_cpu_s is None else round(server_cpu_s / took_s, 3),
        server_us=None if server_cpu_s is None or not ok.any() else round(1e6 * server_cpu_s / int(ok.sum()), 1),
        load_average=round(load_average, 2),
        seconds=round(seconds, 2),
    )


def quantiles_ms(ns: I64) -> dict[str, float]:
    """p50, p95, p99 and p99.9 in milliseconds, of at least one value."""
    return {name: round(float(np.quantile(ns, q)) / 1e6, 3) for name, q in _QUANTILES.items()}


def overload_figures(outcome: Outcome, *, deadline_s: float, seconds: float, peak: float) -> dict[str, Any]:
    """What became of more calls than the server can answer.

    goodput: answers within the deadline, counted from the instant a call was due, per second; goodput_share: of `peak`;
    accepted_p99_ms: of the answers, from that instant too, so that a late sender makes it worse and never better;
    refused, refusal_p50_ms: calls refused as too many and the time until they knew, from their sending.
    """
    ok, refused = outcome.status == "OK", outcome.status == "RESOURCE_EXHAUSTED"
    good = int((ok & (outcome.latency_ns <= deadline_s * 1e9)).sum()) / seconds
    refusal = (outcome.latency_ns - outcome.lag_ns)[refused]
    return {
        "goodput": round(good, 1),
        "goodput_share": round(good / peak, 3),
        "accepted_p99_ms": quantiles_ms(outcome.latency_ns[ok])["p99"] if ok.any() else None,
        "refused": int(refused.sum()),
        "refusal_p50_ms": quantiles_ms(refusal)["p50"] if refused.any() else None,
    }


def back_to_normal_s(outcome: Outcome, normal_p99_ms: float) -> float | None:
    """Seconds until p99 of every half second is `normal_p99_ms` at most; a failed call is over it; None for never."""
    bad = (outcome.status != "OK") | (outcome.latency_ns > normal_p99_ms * 1e6)
    window = (outcome.due_ns / (_WINDOW_S * 1e9)).astype(np.int64)
    calls = np.bincount(window)
    over = np.bincount(window, weights=bad) > 0.01 * calls
    if not over.any():
        return 0.0
    last = int(np.flatnonzero(over)[-1])
    return None if last == len(calls) - 1 else (last + 1) * _WINDOW_S
