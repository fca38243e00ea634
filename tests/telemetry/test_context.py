"""W3C Trace Context: what comes in, who is sampled, and what goes out to whom."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.traces import Recorded, Traces

ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traces(sample: float = 0.0) -> Traces:
    def send(span: Recorded) -> None:
        raise AssertionError(span)

    return Traces(send, sample, frozenset())


def headers(parent: str, state: str = "") -> Mapping[bytes, bytes]:
    return {b"traceparent": parent.encode(), b"tracestate": state.encode()}


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True), ("02", False)])
def test_a_call_stands_below_its_caller_and_is_sampled_as_it_is(flags: str, sampled: bool) -> None:
    trace = traces(1.0 if not sampled else 0.0).begin(headers(f"00-{ID}-{PARENT}-{flags}", "vendor=a,other=b"))
    assert trace is not None
    assert (trace.id, trace.parent, trace.sampled, trace.state) == (ID, PARENT, sampled, "vendor=a,other=b")
    assert re.fullmatch("[0-9a-f]{16}", trace.span)
    assert trace.span != PARENT
    sent = dict(trace.child().headers())
    assert sent["traceparent"].startswith(f"00-{ID}-")
    assert sent["traceparent"].endswith("-01" if sampled else "-00")
    assert sent["tracestate"] == "vendor=a,other=b"


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"ff-{ID}-{PARENT}-01",
        f"00-{ID.upper()}-{PARENT}-01",
        f"00-{ID}-{PARENT}",
        f"00-{ID[:-1]}-{PARENT}-01",
    ],
)
def test_a_parent_that_is_none_begins_a_trace_of_its_own(parent: str) -> None:
    assert traces(0.0).begin(headers(parent)) is None
    begun = traces(1.0).begin(headers(parent))
    assert begun is not None
    assert (begun.parent, begun.sampled, begun.state) == ("", True, "")
    assert begun.id != ID


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    trace = traces().begin(headers(f"01-{ID}-{PARENT}-01-what-comes-later"))
    assert trace is not None
    assert trace.id == ID


@pytest.mark.parametrize("state", ["a=b\r\nx-injected: 1", "a=\x00", "a=" + "b" * 600])
def test_a_state_that_no_header_can_carry_is_left_out(state: str) -> None:
    trace = traces().begin(headers(f"00-{ID}-{PARENT}-01", state))
    assert trace is not None
    assert trace.headers() == [("traceparent", f"00-{ID}-{trace.span}-01")]


@given(st.binary(max_size=80), st.binary(max_size=80))
def test_no_header_can_break_it(parent: bytes, state: bytes) -> None:
    trace = traces(1.0).begin({b"traceparent": parent, b"tracestate": state})
    assert trace is not None
    for name, value in trace.headers():
        assert name in ("traceparent", "tracestate")
        assert value.isascii()
        assert value.isprintable()


def test_the_share_that_is_sampled_is_the_share_that_was_asked_for() -> None:
    some = traces(0.1)
    found = sum(some.begin({}) is not None for _ in range(20_000))
    assert 1700 < found < 2300
