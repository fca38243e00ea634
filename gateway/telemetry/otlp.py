"""Spans and metrics on their way to an OpenTelemetry collector: OTLP over HTTP, in batches, by our own transport.

Rule 1. Nobody waits for it: spans are queued up to a bound, what is too much is dropped and counted.
Rule 2. A collector that is down costs nobody anything: a batch is tried three times, then dropped and counted.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry

from gateway.account import Account
from gateway.config.document import TelemetryConfig
from gateway.errors import ConfigError, UpstreamError
from gateway.metrics import Metrics
from gateway.telemetry.otlp_wire import metrics_request, spans_request
from gateway.telemetry.traces import Recorded
from gateway.transport.client import Client, Timeouts, request_head

Signal = Literal["traces", "metrics"]
FLUSH_S = 1.0
BATCH = 256
QUEUED = 8192
TRIES = 3
RETRY_S = 1.0
TIMEOUTS = Timeouts(connect_s=3.0, first_byte_s=5.0, idle_s=5.0, total_s=10.0)
LEAVE_S = 3.0
"""How long the last spans may take when the gateway goes."""
TRY_LATER = frozenset({429, 502, 503, 504})
"""Source: OTLP 1.9, "Retryable response codes"."""


class Telemetry:
    """Owns the queue of spans and the connection to the collector. Raises ConfigError for what is missing."""

    def __init__(self, config: TelemetryConfig, metrics: Metrics) -> None:
        self.config, self._exports, self._dropped = config, metrics.exports, metrics.spans_dropped.labels()
        base = config.otlp.rstrip("/")
        parts = urlsplit(base)
        self._host, self._path = parts.netloc, parts.path
        try:
            self._client = Client(Account(ca_file=config.ca_file, timeouts=TIMEOUTS).origin(base))
        except (OSError, ValueError) as error:
            raise ConfigError("telemetry", str(error)) from error
        self._resource = resource(os.environ)
        self._waiting: deque[Recorded] = deque()
        self._leaving = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._began_ns = time.time_ns()

    def send(self, span: Recorded) -> None:
        """Takes a span; never waits."""
        if len(self._waiting) < QUEUED:
            self._waiting.append(span)
        else:
            self._dropped.inc()

    def start(self, registry: CollectorRegistry) -> None:
        """Begins to send, metrics too where that is wanted."""
        self._tasks.append(asyncio.create_task(self._send_spans()))
        if self.config.metrics_every_s > 0:
            self._tasks.append(asyncio.create_task(self._send_metrics(registry)))

    async def aclose(self) -> None:
        """Sends what is left, as far as that is soon done."""
        self._leaving.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVE_S)
        for task in self._tasks:
            task.cancel()
        await self._client.aclose()

    async def _send_spans(self) -> None:
        while not (self._leaving.is_set() and not self._waiting):
            await self._pause(FLUSH_S)
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not await self._post("traces", spans_request(batch, self._resource)):
                    self._dropped.inc(len(batch))
                    break

    async def _send_metrics(self, registry: CollectorRegistry) -> None:
        while not self._leaving.is_set():
            await self._pause(self.config.metrics_every_s)
            body = metrics_request(registry.collect(), self._resource, self._began_ns, time.time_ns())
            await self._post("metrics", body)

    async def _pause(self, seconds: float) -> None:
        """Returns at once when the gateway goes."""
        try:
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
        except TimeoutError:
            return

    async def _post(self, signal: Signal, body: bytes) -> bool:
        """Whether the collector took it, at the third try at the latest."""
        for attempt in range(TRIES):
            if attempt:
                await self._pause(RETRY_S * 2 ** (attempt - 1))
            status = await self._posted(signal, body)
            if status not in TRY_LATER or self._leaving.is_set():
                break
        self._exports.labels(signal, "ok" if status == 200 else "failed").inc()
        return status == 200

    async def _posted(self, signal: Signal, body: bytes) -> int:
        """The collector's status; 503 where there was none."""
        headers = [(name.lower(), secret.reveal()) for name, secret in self.config.headers.items()]
        fields = [("content-type", "application/x-protobuf"), ("user-agent", "arriero"), *headers]
        head = request_head("POST", f"{self._path}/v1/{signal}", self._host, fields, len(body))
        try:
            response = await self._client.request(head, body)
            try:
                await response.read()
            finally:
                response.close()
        except UpstreamError:
            return 503
        return response.status


def resource(env: Mapping[str, str]) -> Mapping[str, str]:
    """What all spans and metrics are of, by OpenTelemetry's own variables.

    Source: OpenTelemetry specification, "Resource SDK": OTEL_SERVICE_NAME goes before OTEL_RESOURCE_ATTRIBUTES."""
    pairs = [pair.partition("=") for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if "=" in pair]
    found = {"service.name": "arriero", **{name.strip(): unquote(value.strip()) for name, _, value in pairs}}
    if name := env.get("OTEL_SERVICE_NAME"):
        found["service.name"] = name
    return found
