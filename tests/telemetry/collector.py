"""An OpenTelemetry collector's HTTP side: takes what is posted, decodes it by OpenTelemetry's own protobuf classes."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """What was received: `spans` and `metrics` by name, and the headers of every post."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        self.spans: list[Any] = []
        self.metrics: dict[str, Any] = {}
        self.resources: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        with self._lock:
            self.headers.append(headers)
            if path == "/v1/traces":
                for found in ExportTraceServiceRequest.FromString(body).resource_spans:
                    self.resources.append(attributes(found.resource))
                    self.spans += [span for scope in found.scope_spans for span in scope.spans]
            elif path == "/v1/metrics":
                for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    self.metrics |= {metric.name: metric for scope in found.scope_metrics for metric in scope.metrics}

    def trace(self) -> tuple[Any, list[Any]]:
        """The one call's span and those of its attempts in their order."""
        (call,) = [span for span in self.spans if span.kind == 2]
        attempts = sorted((span for span in self.spans if span.kind == 3), key=lambda span: span.start_time_unix_nano)
        assert all(span.trace_id == call.trace_id and span.parent_span_id == call.span_id for span in attempts)
        return call, attempts


def attributes(thing: Any) -> dict[str, Any]:
    """The attributes of a span, a resource or a data point as plain values."""
    return {entry.key: _value(entry.value) for entry in thing.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(part) for part in found.values] if kind == "array_value" else found


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a port of the system's choosing."""
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if found.status == 200:
                found.take(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            self.send_response(found.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
