"""The loads of one kind of query, in order: warm-up, saturation search, points at 70 % of it, overload and recovery.

Prints a line per load as it ends. Knows nothing about how a server was started or requests were made.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from bench.load_figures import Point, back_to_normal_s, overload_figures, summarise
from bench.load_generator import Generator, Outcome
from bench.load_schedule import Arrivals, draw_requests, due_ns
from bench.load_search import saturation
from bench.load_store import ServerProcess

SHARE, OVERLOADS, RECOVERY_SHARE = 0.7, (2.0, 5.0), 0.5
_PATIENT_S = 10.0  # deadline of calls outside an overload
_WARM_RATE = 400.0
_RECOVERY_S = 8.0
_NORMAL = 2.0  # times the p99 before the overload, which half a second of calls is too few to hit closely
_HEAD = (
    "load                arrivals  calls/s answers/s   p50 ms   p95 ms   p99 ms  p99.9 ms  lag p99"
    "  sender us  server us  load avg"
)


class Bench:
    """One target, the server behind it when it was started here, and where rows go."""

    def __init__(
        self, target: str, server: ServerProcess | None, chosen: argparse.Namespace, out: IO[str] | None
    ) -> None:
        self.target, self.server, self.chosen, self._out = target, server, chosen, out

    def load(
        self,
        sender: Generator,
        requests: int,
        what: str,
        *,
        rate: float,
        seconds: float,
        zipf: float,
        arrivals: Arrivals = "poisson",
        deadline_s: float = _PATIENT_S,
    ) -> tuple[Point, Outcome]:
        """One load, printed and written."""
        due = due_ns(rate, seconds, arrivals, self.chosen.seed)
        which = draw_requests(len(due), requests, zipf, self.chosen.seed)
        before = self._cpu_s()
        outcome = sender.send(due, which, deadline_s)
        after = self._cpu_s()
        point = summarise(
            outcome,
            what=what,
            arrivals=arrivals,
            rate=rate,
            seconds=seconds,
            server_cpu_s=None if before is None or after is None else after - before,
            load_average=os.getloadavg()[0],
        )
        self._tell(point)
        return point, outcome

    def memory_mib(self) -> float | None:
        """Proportional resident size of the server, None when it runs elsewhere."""
        return None if self.server is None else round(self.server.resident_bytes() / 2**20, 1)

    def _cpu_s(self) -> float | None:
        return None if self.server is None else self.server.cpu_seconds()

    def _tell(self, point: Point) -> None:
        if self._out is not None:
            self._out.write(json.dumps(asdict(point)) + "\n")
            self._out.flush()
        latency = "".join(f"{point.latency_ms.get(name, float('nan')):9.2f}" for name in ("p50", "p95", "p99"))
        server = "-" if point.server_us is None else f"{point.server_us:.0f}"
        withheld = point.withheld and f"not reported: {point.withheld}"
        print(
            f"{point.what:19} {point.arrivals:8} {point.rate:8.0f} {point.achieved:9.0f}{latency}"
            f"{point.latency_ms.get('p99.9', float('nan')):10.2f}{point.lag_p99_ms:9.2f}"
            f"{point.sender_us:11.0f}{server:>11}{point.load_average:10.2f}  {point.errors or ''} {withheld}",
            flush=True,
        )


def find_and_measure(
    bench: Bench, what: str, requests: Sequence[bytes], *, overload: bool, zipf: float = 0.0, batches: bool = False
) -> dict[str, Any]:
    """All loads of one kind of query; `rate` is the highest with p99 under the bound, or the one that was asked for."""
    chosen = bench.chosen
    sender = Generator(
        bench.target, requests, connections=chosen.connections, batches=batches, realtime=chosen.realtime
    )
    print(_HEAD, flush=True)
    try:
        _warm(bench, sender, len(requests), what, zipf)
        rate: float | None = chosen.rate
        found: dict[str, Any] = {}
        if rate is None:
            rate, found = _search(bench, sender, len(requests), what, zipf)
            if not rate:
                print(f"no rate was found with p99 under {chosen.p99_ms:g} ms: the reasons are above", flush=True)
                return {"rate": 0.0, **found}
        share = 1.0 if chosen.rate is not None else SHARE
        points = [
            bench.load(
                sender,
                len(requests),
                f"{what} at {100 * share:.0f} %",
                rate=share * rate,
                seconds=chosen.seconds,
                zipf=zipf,
                arrivals=arrivals,
            )[0]
            for arrivals in ("constant", "poisson")
        ]
        figures: dict[str, Any] = {"rate": round(rate, 1), **found, "points": [asdict(point) for point in points]}
        if overload and chosen.rate is None:
            figures["overload"] = [_overload(bench, sender, len(requests), rate, times) for times in OVERLOADS]
        return figures
    finally:
        sender.close()


def _warm(bench: Bench, sender: Generator, requests: int, what: str, zipf: float) -> None:
    chosen = bench.chosen
    if what == "text":
        # every text over every connection: workers have a cache each
        which = np.repeat(np.arange(requests), chosen.connections)
        due = (np.arange(len(which)) / _WARM_RATE * 1e9).astype(np.int64)
        sender.send(due, which, 60.0)
    rate = min(_WARM_RATE, chosen.rate or chosen.start_rate)
    bench.load(sender, requests, f"{what} warm-up", rate=rate, seconds=chosen.warm_up, zipf=zipf)


def _search(bench: Bench, sender: Generator, requests: int, what: str, zipf: float) -> tuple[float, dict[str, Any]]:
    chosen = bench.chosen
    asked: list[Point] = []

    def keeps(rate: float) -> bool:
        point, _ = bench.load(sender, requests, f"{what} search", rate=rate, seconds=chosen.seconds / 2, zipf=zipf)
        asked.append(point)
        return point.within(chosen.p99_ms)

    rate = saturation(keeps, chosen.start_rate)
    best = [point for point in asked if point.within(chosen.p99_ms) and abs(point.rate - rate) < 0.1]
    # what broke the rates above it
    late = any(point.withheld for point in asked if point.rate > rate)
    return rate, {
        "p99_bound_ms": chosen.p99_ms,
        "at_rate": asdict(best[-1]) if best else None,
        "limited_by": "the generator" if late else "the server",
    }


def _overload(bench: Bench, sender: Generator, requests: int, rate: float, times: float) -> dict[str, Any]:
    chosen = bench.chosen
    deadline_s = chosen.deadline_ms / 1e3
    calm = RECOVERY_SHARE * rate
    _, before = bench.load(sender, requests, "before", rate=calm, seconds=chosen.seconds / 2, zipf=0.0)
    normal_ms = _NORMAL * float(np.quantile(before.latency_ns, 0.99)) / 1e6
    peak_point, at_peak = bench.load(
        sender, requests, "peak", rate=rate, seconds=chosen.seconds / 2, zipf=0.0, deadline_s=deadline_s
    )
    peak = overload_figures(at_peak, deadline_s=deadline_s, seconds=peak_point.seconds, peak=rate)["goodput"]
    memory = bench.memory_mib()
    point, outcome = bench.load(
        sender,
        requests,
        f"overload {times:g} x",
        rate=times * rate,
        seconds=chosen.seconds,
        zipf=0.0,
        deadline_s=deadline_s,
    )
    _, after = bench.load(sender, requests, "after", rate=calm, seconds=_RECOVERY_S, zipf=0.0)
    # calls that left late were fewer per second than were asked for: counted over the time that they took to leave
    seconds = point.calls / point.offered
    figures = overload_figures(outcome, deadline_s=deadline_s, seconds=seconds, peak=peak or rate)
    if point.withheld:  # the sender was late: what of it is the server's cannot be told
        figures = dict.fromkeys(figures)
    figures |= {
        "times": times,
        "offered_times": round(point.offered / rate, 2),
        "peak_goodput": peak,
        "memory_before_mib": memory,
        "memory_after_mib": bench.memory_mib(),
        "normal_p99_ms": round(normal_ms, 2),
        "back_to_normal_s": back_to_normal_s(after, normal_ms),
        "point": asdict(point),
    }
    if point.withheld:
        print(f"overload {times:g} x: {point.withheld}", flush=True)
        return figures
    print(
        f"overload {times:g} x (sent {figures['offered_times']:.2f} x): goodput {figures['goodput']:.0f}/s, "
        f"{100 * figures['goodput_share']:.1f} % of peak; accepted p99 {figures['accepted_p99_ms']} ms; refused "
        f"{figures['refused']} in p50 {figures['refusal_p50_ms']} ms; degraded {point.degraded}; memory {memory} -> "
        f"{figures['memory_after_mib']} MiB; back to normal in {figures['back_to_normal_s']} s",
        flush=True,
    )
    return figures
