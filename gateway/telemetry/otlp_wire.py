"""OTLP in protobuf's wire form: spans, and what Prometheus would read. Pure; only the messages and fields that we send.

Source: opentelemetry-proto 1.9 (trace, metrics, common, resource); protobuf.dev/programming-guides/encoding."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from prometheus_client.core import Metric

from gateway.telemetry.traces import Recorded, Value

SERVER, CLIENT, ERROR, CUMULATIVE = 2, 3, 2, 2
_fixed64 = struct.Struct("<Q").pack
_double = struct.Struct("<d").pack


def spans_request(spans: Iterable[Recorded], resource: Mapping[str, Value]) -> bytes:
    """An ExportTraceServiceRequest."""
    return _request(resource, b"".join(_field(2, _span(span)) for span in spans))


def metrics_request(families: Iterable[Metric], resource: Mapping[str, Value], began_ns: int, now_ns: int) -> bytes:
    """An ExportMetricsServiceRequest: names and labels as Prometheus has them, counters since `began_ns`."""
    times = b"\x11" + _fixed64(began_ns) + b"\x19" + _fixed64(now_ns)
    return _request(resource, b"".join(_field(2, _metric(family, times)) for family in families))


def _request(resource: Mapping[str, Value], items: bytes) -> bytes:
    scope = _field(1, _field(1, b"arriero"))
    return _field(1, _field(1, _attributes(1, resource)) + _field(2, scope + items))


def _span(span: Recorded) -> bytes:
    trace = span.trace
    parts = [_field(1, bytes.fromhex(trace.id)), _field(2, bytes.fromhex(trace.span))]
    if trace.state:
        parts.append(_field(3, trace.state.encode()))
    if trace.parent:
        parts.append(_field(4, bytes.fromhex(trace.parent)))
    parts += [
        _field(5, span.name.encode()),
        b"\x30" + _varint(SERVER if span.server else CLIENT),
        b"\x39" + _fixed64(span.begin_ns),
        b"\x41" + _fixed64(span.end_ns),
        _attributes(9, span.attributes),
    ]
    parts += [_field(11, b"\x09" + _fixed64(at) + _field(2, name.encode())) for name, at in span.events]
    if span.error:
        parts.append(_field(15, _field(2, span.error.encode()) + b"\x18" + _varint(ERROR)))
    return b"".join(parts)


def _metric(family: Metric, times: bytes) -> bytes:
    head = _field(1, family.name.encode()) + _field(2, family.documentation.encode())
    if family.type == "histogram":
        return head + _field(9, _histogram_points(family, times) + b"\x10" + _varint(CUMULATIVE))
    wanted = f"{family.name}_total" if family.type == "counter" else family.name
    points = b"".join(
        _field(1, times + b"\x21" + _double(sample.value) + _attributes(7, sample.labels))
        for sample in family.samples
        if sample.name == wanted
    )
    if family.type == "counter":
        return head + _field(7, points + b"\x10" + _varint(CUMULATIVE) + b"\x18\x01")
    return head + _field(5, points)


def _histogram_points(family: Metric, times: bytes) -> bytes:
    """One point a series; Prometheus counts up to each bound, OpenTelemetry between them."""
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in family.samples:
        series = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        if sample.name.endswith("_bucket"):
            buckets.setdefault(series, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_sum"):
            sums[series] = sample.value
    return b"".join(_field(1, times + _point(dict(of), found, sums[of])) for of, found in buckets.items())


def _point(labels: Mapping[str, str], buckets: Sequence[tuple[float, float]], total: float) -> bytes:
    ups = [int(count) for _, count in buckets]
    counts = [count - before for count, before in zip(ups, [0, *ups], strict=False)]
    bounds = [bound for bound, _ in buckets[:-1]]  # the last is endless
    return b"".join(
        [
            b"\x21" + _fixed64(ups[-1]),
            b"\x29" + _double(total),
            _field(6, b"".join(map(_fixed64, counts))),
            _field(7, b"".join(map(_double, bounds))),
            _attributes(9, labels),
        ]
    )


def _attributes(number: int, attributes: Mapping[str, Value]) -> bytes:
    return b"".join(
        [
            _attribute(number, key, value) if isinstance(value, str) and len(value) > 64 else _kept(number, key, value)
            for key, value in attributes.items()
        ]
    )


def _attribute(number: int, key: str, value: Value) -> bytes:
    return _field(number, _field(1, key.encode()) + _field(2, _value(value)))


_kept = lru_cache(maxsize=4096, typed=True)(_attribute)
"""Most attributes are the same from call to call."""


def _value(value: Value) -> bytes:
    match value:
        case str():
            return _field(1, value.encode("utf-8", "replace"))
        case bool():  # before int, which it is too
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + _varint(value)
        case float():
            return b"\x21" + _double(value)
    return _field(5, b"".join(_field(1, _value(part)) for part in value))


def _field(number: int, data: bytes) -> bytes:
    """A field that has a length."""
    size = len(data)
    if size < 128:
        return b"%c%c%b" % (number << 3 | 2, size, data)
    return b"%c%b%b" % (number << 3 | 2, _varint(size), data)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; below zero as 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
