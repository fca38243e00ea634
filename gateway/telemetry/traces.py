"""Calls as OpenTelemetry spans: who is sampled, and what a span says. Sending them is otlp.py's.

Rule 1. Spans are made after a call, of what its decision holds; on the way nothing but ids is made.
Rule 2. Never an answer or a key; a prompt only where its route says `record_prompts: true`.

Sources: W3C Trace Context 2; OpenTelemetry semantic conventions 1.37, gen-ai spans. Ours are `arriero.…`."""

import random
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from gateway.dispatch import Opened
from gateway.router import Attempt, Decision
from gateway.types import NANO_PER_USD, Call, Deployment, Trace, Usage

OPERATIONS = {"chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
"""OpenTelemetry's gen_ai.operation.name."""
PROVIDERS = {
    "azure": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
}
"""OpenTelemetry's gen_ai.provider.name where it is not our own word."""
MAX_PROMPT_BYTES = 65536
_traceparent = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})").match
_tracestate = re.compile(rb"[\x20-\x7e]{1,512}").fullmatch

Value = str | bool | int | float | tuple[str, ...]


class Recorded(NamedTuple):
    """One span. Times are nanoseconds since the epoch; `error` is what failed, "" for nothing."""

    name: str
    server: bool
    trace: Trace
    begin_ns: int
    end_ns: int
    attributes: Mapping[str, Value]
    events: tuple[tuple[str, int], ...]
    error: str


class Traced(NamedTuple):
    """A call that ended, as settle.py has it. Times are on the monotonic clock."""

    decision: Decision
    opened: Opened | None
    usage: Usage | None
    status: int
    code: str
    began: float
    ended: float


class Traces:
    """The tracing of one config. `send` takes spans and never waits; `recording` are the routes that record prompts."""

    def __init__(self, send: Callable[[Recorded], None], sample: float, recording: Collection[str]) -> None:
        self.send, self.sample, self.recording = send, sample, recording

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace | None:
        """Where a call stands: below its caller's span, sampled as the caller's is; else sampled by chance, or None."""
        given = _traceparent(headers.get(b"traceparent", b""))
        if given is not None:
            state = headers.get(b"tracestate", b"").strip()
            parent = Trace(given[1].decode(), given[2].decode(), bool(int(given[3], 16) & 1))
            return parent.child()._replace(state=state.decode() if _tracestate(state) else "")
        if random.random() >= self.sample:
            return None
        return Trace(f"{random.getrandbits(128) or 1:032x}", "", True).child()

    def end(self, traced: Traced) -> None:
        """The spans of a sampled call: its own, and below it one an attempt."""
        trace = traced.decision.call.trace
        if trace is None or not trace.sampled:
            return
        self.send(self._call(traced, trace))
        for number, attempt in enumerate(traced.decision.attempts):
            self.send(_attempt(traced, trace, attempt, number))

    def _call(self, traced: Traced, trace: Trace) -> Recorded:
        decision, call, status = traced.decision, traced.decision.call, traced.status
        attributes: dict[str, Value] = {
            **_asked(call, call.model),
            "http.response.status_code": status,
            "arriero.route": call.route,
            "arriero.key": call.tenant.name,
            "arriero.request_id": call.id,
            "arriero.decision_id": decision.id,
            "arriero.attempts": len(decision.attempts),
            **_used(traced.usage),
        }
        if removed := tuple(f"{name} ({policy})" for name, (policy, _) in decision.removed.items()):
            attributes["arriero.removed"] = removed
        if traced.opened is not None:
            attributes["arriero.deployment"] = traced.opened.lane.deployment.name
            attributes["arriero.cost_usd"] = traced.opened.attempt.cost_nano / NANO_PER_USD
        if call.route in self.recording:
            attributes["gen_ai.input.messages"] = _prompt(call)
        error = traced.code or str(status) if status >= 500 or (status == 200 and traced.code) else ""
        if error or traced.code:
            attributes["error.type"] = error or traced.code
        times = _ns(decision, traced.began), _ns(decision, traced.ended)
        name = f"{OPERATIONS[call.endpoint]} {call.route}"
        return Recorded(name, True, trace, *times, attributes, (), error)


def _attempt(traced: Traced, trace: Trace, attempt: Attempt, number: int) -> Recorded:
    decision, opened = traced.decision, traced.opened
    call = decision.call
    deployment = attempt.candidate.deployment
    attributes: dict[str, Value] = {
        **_asked(call, deployment.model),
        "gen_ai.provider.name": PROVIDERS.get(deployment.cloud, deployment.cloud),
        "arriero.deployment": deployment.name,
        "arriero.outcome": attempt.outcome,
        "arriero.retry": number,
        **_where(deployment),
    }
    if attempt.status:
        attributes["http.response.status_code"] = attempt.status
    if attempt.degraded:
        attributes["arriero.degraded"] = tuple(f"{what}={how}" for what, how in attempt.degraded.items())
    if opened is not None and opened.attempt is attempt:
        attributes |= _used(traced.usage)
        attributes["arriero.cost_usd"] = attempt.cost_nano / NANO_PER_USD
    events: tuple[tuple[str, int], ...] = ()
    if attempt.first_byte is not None and call.stream:
        attributes["arriero.time_to_first_token_s"] = round(attempt.first_byte - attempt.began, 6)
        events = (("arriero.first_token", _ns(decision, attempt.first_byte)),)
    error = "" if attempt.outcome in ("ok", "client_gone") else attempt.outcome
    if error:
        attributes["error.type"] = error
    times = _ns(decision, attempt.began), _ns(decision, attempt.ended or traced.ended)
    name = f"{OPERATIONS[call.endpoint]} {deployment.model}"
    below = trace._replace(span=attempt.span, parent=trace.span)
    return Recorded(name, False, below, *times, attributes, events, error)


def _asked(call: Call, model: str) -> Mapping[str, Value]:
    found: dict[str, Value] = {
        "gen_ai.operation.name": OPERATIONS[call.endpoint],
        "gen_ai.request.model": model,
        "gen_ai.request.choice.count": call.choices,
        "arriero.stream": call.stream,
    }
    if call.max_output_tokens is not None:
        found["gen_ai.request.max_tokens"] = call.max_output_tokens
    return found


def _used(usage: Usage | None) -> Mapping[str, Value]:
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "arriero.usage_estimated": usage.estimated,
    }


def _where(deployment: Deployment) -> Mapping[str, Value]:
    return {"cloud.region": deployment.region} if deployment.region else {}


def _prompt(call: Call) -> str:
    """The prompt as its caller sent it, in JSON."""
    span = next((call.fields[name] for name in ("messages", "prompt", "input") if name in call.fields), None)
    said = call.body[span.start : span.end] if span else b""
    return said[:MAX_PROMPT_BYTES].decode("utf-8", "replace")


def _ns(decision: Decision, at: float) -> int:
    """A time of the monotonic clock as nanoseconds since the epoch."""
    return int((decision.wall + (at - decision.now)) * 1e9)
