"""Figures of the server in Prometheus's form: counted from call records, or read from providers when somebody looks.

A provider is a function that gives readings; a part that is off gives none, so its metric is absent. Knows no engine,
no cache and no queue: `metric_sources` reads those.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar, cast

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from retrieval.serving.operate.observing import CallRecord

# half of an octave apart: 0.1 ms is a lone vector query, 10 s a client's default deadline
_SECONDS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_COVERAGE = (0.0, 0.5, 0.8, 0.9, 0.99, 0.999, 1.0)

_Family = TypeVar("_Family", Counter, Histogram)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One value of a metric. Counters only grow and end in _total; a name has always the same labels."""

    name: str
    help: str
    value: float
    kind: Literal["gauge", "counter"] = "gauge"
    labels: Mapping[str, str] = field(default_factory=dict)


Provider: TypeAlias = Callable[[], Iterable[Reading]]


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
        self._registry = CollectorRegistry()
        self._providers: list[Provider] = []
        self._children: dict[tuple[object, ...], Counter | Histogram] = {}
        self._calls = Counter(
            "retrieval_requests",
            "Calls answered or refused; entity_type names those that answered, joined by +",
            ["method", "status", "entity_type", "caller"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "retrieval_request_seconds",
            "Time of a call in its thread, without the queue before it",
            ["method"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._stages = Histogram(
            "retrieval_stage_seconds",
            "Time of a call per stage: queue (waiting for a thread), encode, search, merge",
            ["stage"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._coverage = Histogram(
            "retrieval_coverage",
            "Share of the rows that answers stand for",
            ["entity_type"],
            buckets=_COVERAGE,
            registry=self._registry,
        )
        self._degraded = Counter(
            "retrieval_degraded_answers",
            "Answers worth less than was asked for",
            ["entity_type"],
            registry=self._registry,
        )
        self._registry.register(self)  # a collector by its `collect`

    def add(self, provider: Provider) -> None:
        """Ask this provider too, each time the page is read."""
        self._providers.append(provider)

    def observe(self, record: CallRecord) -> None:
        """Count one finished call; an observer of `observing.Gate`."""
        types = "+".join(sorted(record.coverage))
        # the caller is a name of the tokens file and the method one of ours, so that no caller can add a series
        self._child(self._calls, record.method, record.status, types, record.caller).inc()
        self._child(self._seconds, record.method).observe(record.total_ns / 1e9)
        self._child(self._stages, "queue").observe(record.queue_ns / 1e9)
        for stage, stage_ns in record.stages.items():
            self._child(self._stages, stage).observe(stage_ns / 1e9)
        for entity_type, coverage in record.coverage.items():
            self._child(self._coverage, entity_type).observe(coverage)
        for entity_type in record.degraded:
            self._child(self._degraded, entity_type).inc()

    def _child(self, metric: _Family, *values: str) -> _Family:
        # the library looks a child up under a lock and checks its labels, which costs more than counting
        key = (id(metric), *values)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*values)
        return cast(_Family, found)

    def page(self) -> bytes:
        """The text exposition format, version 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """What the providers give, one family per name; called by prometheus_client."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for provider in self._providers:
            try:
                readings = list(provider())
            except Exception:  # one part that cannot be read does not hide the others
                _log.exception("a provider of metrics failed")
                continue
            for each in readings:
                if each.name not in families:
                    family = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
                    families[each.name] = family(each.name, each.help, labels=list(each.labels))
                families[each.name].add_metric(list(each.labels.values()), each.value)
        yield from families.values()


def merge_pages(pages: Mapping[str, bytes]) -> bytes:
    """The pages of several workers as one: each line gets a label `worker`, families stay together."""
    headings: dict[str, list[str]] = {}
    lines: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family = ""
        for line in page.decode().splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                if line not in headings.setdefault(family, []):
                    headings[family].append(line)
            elif line:
                lines.setdefault(family, []).append(_labelled(line, worker))
    text = [line for family, heading in headings.items() for line in [*heading, *lines.get(family, [])]]
    return ("\n".join(text) + "\n").encode()


def _labelled(line: str, worker: str) -> str:
    name, rest = line[: (cut := _name_end(line))], line[cut:]
    label = f'worker="{worker}"'
    return f"{name}{{{label},{rest[1:]}" if rest.startswith("{") else f"{name}{{{label}}}{rest}"


def _name_end(line: str) -> int:
    return next(place for place, letter in enumerate(line) if letter in "{ ")
