"""What watches a server: metrics, log and traces of its calls, and the gate that admits its callers.

Put together from the settings, per process. Knows the parts that keep figures, not how they are served.
"""

from __future__ import annotations

from retrieval.serving.config import ServingSettings
from retrieval.serving.engine import Engine
from retrieval.serving.operate import metric_sources
from retrieval.serving.operate.auth import Callers
from retrieval.serving.operate.credentials import TlsReloader
from retrieval.serving.operate.logs import call_log
from retrieval.serving.operate.metrics import Metrics
from retrieval.serving.operate.observing import Gate, Observer
from retrieval.serving.operate.tracing import Tracing
from retrieval.serving.text.path import TextPath


class Operations:
    """The watchers of one server.

    is_ready: whether the server takes calls, which /readyz tells. InvalidParams when the tokens cannot be used,
    MissingDependency when traces are asked for without the libraries.
    """

    def __init__(self, engine: Engine, settings: ServingSettings, tls: TlsReloader | None) -> None:
        self.is_ready = False
        self.metrics = Metrics()
        self._tracing = (
            None if settings.traces_endpoint is None else Tracing(settings.traces_endpoint, share=settings.traces_share)
        )
        callers = None if settings.tokens is None else Callers(settings.tokens)
        observers: list[Observer] = []
        if settings.metrics_port is not None:
            observers.append(self.metrics.observe)
            self._watch(engine, tls)
        if (log := call_log(settings.log_calls)) is not None:
            observers.append(log)
        if self._tracing is not None:
            observers.append(self._tracing.observe)
        self.gate = Gate(callers, observers)

    def _watch(self, engine: Engine, tls: TlsReloader | None) -> None:
        self.metrics.add(metric_sources.served(engine.describe))
        self.metrics.add(metric_sources.memory)
        if isinstance(engine.tower, TextPath):
            self.metrics.add(metric_sources.stats("texts", engine.tower.stats))
        if tls is not None:
            self.metrics.add(metric_sources.certificate(lambda: tls.expires))

    def close(self) -> None:
        """Send what is left of the traces."""
        if self._tracing is not None:
            self._tracing.close()
