"""Calls as OpenTelemetry traces: a span per call, a child per stage, made after the answer is on its way.

The spans are built from the call's record, so that a call that is not traced costs nothing but the decision. Needs the
extra `traces`. Knows nothing about queries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval.errors import MissingDependency
from retrieval.serving.operate.observing import TRACE_KEY, CallRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor


class Tracing:
    """An observer that gives every finished call to a span processor.

    endpoint: an OTLP collector. share: of the calls whose caller did not decide. processor: where spans go instead of
    the collector. MissingDependency without the libraries.
    """

    def __init__(self, endpoint: str, *, share: float, processor: SpanProcessor | None = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            if processor is None:
                from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
                from opentelemetry.sdk.trace.export import BatchSpanProcessor

                exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https"))
                processor = BatchSpanProcessor(exporter)
        except ImportError as error:
            raise MissingDependency(
                f"traces_endpoint is set, but {error.name} is not installed: pip install 'retrieval[traces]'"
            ) from None
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)), resource=Resource.create({"service.name": "retrieval"})
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("retrieval.serving")
        self._propagator = TraceContextTextMapPropagator()

    def observe(self, record: CallRecord) -> None:
        """Make the spans of one call."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        carrier = {} if record.trace_parent is None else {TRACE_KEY: record.trace_parent}
        parent = self._propagator.extract(carrier)
        arrived = record.began_ns - record.queue_ns
        span = self._tracer.start_span(
            f"{record.service}/{record.method}", context=parent, kind=SpanKind.SERVER, start_time=arrived
        )
        if span.is_recording():
            span.set_attribute("rpc.system", "grpc")
            span.set_attribute("rpc.service", record.service)
            span.set_attribute("rpc.method", record.method)
            span.set_attribute("rpc.response.status_code", record.status)
            span.set_attribute("retrieval.request_id", record.request_id)
            if record.status != "OK":
                span.set_status(Status(StatusCode.ERROR, record.detail))
            for entity_type, coverage in record.coverage.items():
                span.set_attribute(f"retrieval.coverage.{entity_type}", coverage)
            inside = set_span_in_context(span)
            begins = arrived
            for name, took in {"queue": record.queue_ns, **record.stages}.items():
                child = self._tracer.start_span(name, context=inside, start_time=begins)
                begins += took
                child.end(end_time=begins)
        span.end(end_time=record.began_ns + record.total_ns)

    def close(self) -> None:
        """Send what is left and stop."""
        self._provider.shutdown()
