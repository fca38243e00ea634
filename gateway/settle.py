"""After the last byte, once: usage to cost, health, metrics, the access line, the kept decision.

Rule 1. A call is settled exactly once, however it ended.
Rule 2. What a cloud did not say is estimated and marked; nothing is counted twice.
Rule 3. What the client is told is reckoned at once, all else in the loop's next round with that of other calls: done
        together it costs half, and nobody waits for it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway import charges
from gateway.decisions import Decisions
from gateway.dispatch import Opened
from gateway.errors import UpstreamError
from gateway.health import Health
from gateway.ledger.book import Ledger
from gateway.ledger.rows import Baseline, Finished, Lines, charged
from gateway.log import CallLine, Log
from gateway.metrics import STATUSES, Metrics
from gateway.outcome import judge
from gateway.prices import usd
from gateway.router import Decision
from gateway.telemetry.traces import OPERATIONS, Traced, Traces
from gateway.types import NANO_PER_USD, Call, Usage


class Ended(NamedTuple):
    """How a call ended: the status the client saw (499: it left), the error's code if any."""

    status: int
    code: str = ""


class Books(NamedTuple):
    """Where it is written down that a call ended; the ledger may be off, and a baseline need not be named."""

    log: Log
    decisions: Decisions
    ledger: Ledger | None = None
    baseline: Baseline | None = None


class Settlement:
    """What is done with a call that ended. Owns nothing; writes to those who do."""

    def __init__(self, health: Health, metrics: Metrics, books: Books, wall: Callable[[], float]) -> None:
        self.health, self.metrics, self.wall = health, metrics, wall
        self.log, self.decisions, self.ledger, baseline = books
        self.lines = Lines(baseline)
        self.traces: Traces | None = None
        self._waiting: list[tuple[Callable[..., None], tuple[object, ...]]] = []

    def _soon(self, work: Callable[..., None], *of: object) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((work, of))

    def flush(self) -> None:
        """Does all that waits; what fails of one call leaves the others alone."""
        waiting, self._waiting = self._waiting, []
        for work, of in waiting:
            try:
                work(*of)
            except Exception as error:  # noqa: BLE001  (a bug of ours: the answer stands)
                self.log.bug(error)

    def begin(self, decision: Decision) -> None:
        """The call was decided: from now on the ledger knows of it, even if this process dies."""
        if self.ledger is not None:
            self.ledger.begin(decision)

    def attempt(self, call: Call, opened: Opened, now: float, *, whole: bool) -> Usage:
        """Closes the attempt that won: what it used and cost, what was learned of its speed. `whole` is False when the
        client left or the stream broke; its speed up to there still counts, its length does not."""
        usage, attempt = _usage(call, opened), opened.attempt
        attempt.ended = now
        attempt.outcome = "ok" if whole else "client_gone"
        fault = opened.stream.fault if opened.stream else None
        if fault is not None:
            self._broke(opened, fault, now)
        opened.lane.charge(attempt, usage, charges.nano(opened.candidate, usage), self.wall())
        self._soon(self._learn, call, opened, usage, whole and fault is None)
        return usage

    def _broke(self, opened: Opened, fault: UpstreamError, now: float) -> None:
        outcome = judge(fault)
        opened.attempt.outcome, opened.attempt.message = outcome.name, fault.message
        if outcome.counts and fault.kind != "total_timeout":  # it was still answering when the call's time was over
            opened.lane.facts.failed(outcome, None, now)

    def _learn(self, call: Call, opened: Opened, usage: Usage, whole: bool) -> None:
        """Speed from successes only; for streams the first token counts however the stream ended."""
        lane, attempt = opened.lane, opened.attempt
        now = attempt.ended or attempt.began
        bound = lane.bound
        bound.attempts[attempt.outcome].inc()
        bound.input.observe(usage.prompt_tokens)
        bound.output.observe(usage.output_tokens)
        lane.facts.used(usage.prompt_tokens, usage.output_tokens, now)
        if opened.stream is None or opened.stream.fault is None:
            lane.facts.succeeded(now)
        ttft_s = (attempt.first_byte or now) - attempt.began
        bound.ttft.observe(ttft_s)
        tokens = usage.output_tokens
        if call.stream:
            tpot_s = (now - (attempt.first_byte or now)) / (tokens - 1) if whole and tokens > 1 else None
        else:
            tpot_s = ttft_s / tokens if tokens else None
        lane.facts.learn_speed(call.stream, ttft_s, tpot_s, now)
        if whole and tokens:
            self.health.learn_length(call.route, call.tenant.name, tokens // call.choices)

    def call(self, decision: Decision, opened: Opened | None, usage: Usage | None, ended: Ended, began: float) -> None:
        """Closes the call: metrics, the decision kept for `explain`, one access line."""
        call, now = decision.call, self.health.clock()
        for attempt in decision.attempts:
            if attempt.ended is None:  # the client left while it was under way
                attempt.outcome, attempt.ended = "client_gone", now
                self.metrics.attempts.labels(call.route, attempt.deployment, "client_gone").inc()
        self._soon(self._close, decision, opened, usage, ended, (began, now))

    def _close(
        self,
        decision: Decision,
        opened: Opened | None,
        usage: Usage | None,
        ended: Ended,
        times: tuple[float, float],
    ) -> None:
        """The money first: what shows the call to people may fail, its row may not be lost by that."""
        call, (began, now) = decision.call, times
        seconds = now - began
        delivered = opened.attempt if opened is not None else None
        line = self.lines.line(Finished(decision, delivered, ended.status, ended.code, seconds))
        self.decisions.keep(decision.id, call.id, line)
        if self.ledger is not None:
            self.ledger.keep(decision.id, line)
        self.log.write_call(_line(decision, opened, usage, ended, seconds))
        paid = charged(decision, delivered, ended.status)
        if paid is not None and paid.usage is not None and (nano := self.lines.compared_nano(call, paid.usage)):
            self.metrics.compared.labels(call.route).inc(nano / NANO_PER_USD)
        status = STATUSES.get(ended.status, "other")
        self.metrics.requests.labels(call.route, call.tenant.name, status).inc()
        self.metrics.duration.labels(OPERATIONS[call.endpoint], call.route).observe(seconds)
        for name, (policy, _) in decision.removed.items():
            self.metrics.removed.labels(call.route, name, policy).inc()
        if call.trace is not None and self.traces is not None:
            self.traces.end(Traced(decision, opened, usage, ended.status, ended.code, began, now))

    def refused(self, id_: str, key: str, endpoint: str, ended: Ended, seconds: float) -> None:
        """Closes a request that was no call yet: its key, body or model was not in order."""
        status = STATUSES.get(ended.status, "other")
        self.metrics.requests.labels("none", key, status).inc()
        self.log.write(
            "call", id=id_, key=key, endpoint=endpoint, status=ended.status, code=ended.code, seconds=round(seconds, 4)
        )


def _line(decision: Decision, opened: Opened | None, usage: Usage | None, ended: Ended, seconds: float) -> CallLine:
    """The access line."""
    call = decision.call
    return CallLine(
        id=call.id,
        decision=decision.id,
        key=call.tenant.name,
        route=call.route,
        endpoint=call.endpoint,
        stream=call.stream,
        status=ended.status,
        code=ended.code or None,
        deployment=opened.lane.deployment.name if opened else None,
        attempts=len(decision.attempts),
        seconds=round(seconds, 4),
        ttft_s=_ttft_s(opened),
        prompt_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        cost_usd=usd(opened.attempt.cost_nano) if opened else None,
    )


def _ttft_s(opened: Opened | None) -> float | None:
    first = opened.attempt.first_byte if opened else None
    return round(first - opened.attempt.began, 4) if opened and first is not None else None


def _usage(call: Call, opened: Opened) -> Usage:
    """What the cloud reported, or an estimate: the prompt from bytes, the output from content events or bytes."""
    if opened.stream is not None:
        return opened.stream.usage or Usage(call.prompt_tokens, opened.stream.content_events, estimated=True)
    assert opened.plain is not None
    if opened.plain.usage is not None:
        return opened.plain.usage
    tokens = 0 if call.endpoint == "embeddings" else len(opened.plain.body) // 4
    return Usage(call.prompt_tokens, tokens, estimated=True)
