"""Metrics of load: calls at work, waiting and refused, the step of the brown-out ladder, and live recall.

Knows nothing about how metrics are served.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrieval.serving.admission import Admission
from retrieval.serving.engine import Engine
from retrieval.serving.live_recall import LiveRecallMeter
from retrieval.serving.operate.metric_sources import stats
from retrieval.serving.operate.metrics import Metrics, Provider, Reading
from retrieval.serving.pressure import Ladder


def watch_load(metrics: Metrics, admission: Admission, engine: Engine) -> None:
    """Add what a server knows of its load to its metrics."""
    metrics.add(stats("admission", admission.stats))
    if engine.ladder is not None:
        metrics.add(_pressure(engine.ladder))
    if engine.live is not None:
        metrics.add(stats("live_recall", engine.live.stats))
        metrics.add(_recall(engine.live))


def _pressure(ladder: Ladder) -> Provider:
    def read() -> Iterator[Reading]:
        yield Reading(
            name="retrieval_pressure_step",
            help="Step of the brown-out ladder: 0 none, 1 less rescore, 2 less effort, 3 cached only, 4 shed batch",
            value=int(ladder.step),
        )

    return read


def _recall(meter: LiveRecallMeter) -> Provider:
    def read() -> Iterator[Reading]:
        for found in meter.measured():
            labels = {
                "entity_type": found.entity_type,
                "effort": found.effort_json,
                "filter_band": found.filter_band,
                "k": str(found.k),
            }
            figures = (("", found.recall), ("_low", found.low), ("_high", found.high), ("_answers", found.answers))
            for name, value in figures:
                yield Reading(
                    name=f"retrieval_live_recall{name}",
                    help="Recall of answers searched again exactly: mean, 95 % interval, answers",
                    value=value,
                    labels=labels,
                )

    return read
