"""The attempts, the only loop: send, judge, next; until an answer is whole or a stream's first content is here.

Rule 1. Every deployment gets at most one attempt a call, and only its own credential.
Rule 2. The caller's own fault is never tried elsewhere, but for an overflow of the context at a larger window.
Rule 3. A second attempt needs a token of the retry budget, counted when it is sent. What is refused before anything
        was sent, as not for this deployment, is no attempt in this and in no other count.
Rule 4. What is taken is given back by the lease of the Opened that is returned, or before anything is raised.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from gateway import answer, charges, relay
from gateway.errors import Answerable, ClientError, UpstreamError
from gateway.lane import Lane, Route
from gateway.lease import Lease
from gateway.outcome import Outcome, final_error, judge, rate_limit_reset_s, retry_after_s
from gateway.router import Attempt, Decision
from gateway.struck import struck
from gateway.tally import Count
from gateway.types import Call, Candidate, Reply, Trace

MAX_CODE = 64
"""Of a cloud's own error code, in characters: it goes into the log."""

LEAST_S = 0.01
"""An attempt in less time would be none."""
UNKNOWN_S = 10.0
"""What a deployment may need of which nothing was learned yet."""


class RetryBudget:
    """Second attempts as a share of calls plus a floor a second; a bucket that holds ten seconds of the floor."""

    def __init__(self, share: float, floor_per_s: float, clock: Callable[[], float]) -> None:
        self._share, self._floor_per_s, self._clock = share, floor_per_s, clock
        self._size = max(10.0 * floor_per_s, 10.0) if share or floor_per_s else 0.0
        self._tokens, self._at = self._size, clock()

    def deposit(self) -> None:
        """A call came."""
        self._tokens = min(self._size, self._tokens + self._share)

    def withdraw(self) -> bool:
        """Whether one more second attempt may be sent; counts it."""
        now = self._clock()
        self._tokens = min(self._size, self._tokens + (now - self._at) * self._floor_per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Opened(NamedTuple):
    """An attempt that won: a whole plain answer, or a stream whose first content is here. `lease` must be closed."""

    lane: Lane
    candidate: Candidate
    attempt: Attempt
    reply: Reply
    lease: Lease
    plain: answer.Answer | None
    stream: relay.Stream | None


class _Failed(NamedTuple):
    lane: Lane
    error: UpstreamError
    outcome: Outcome
    retry_after_s: float | None


class Dispatcher:
    """Carries calls out. Owns the retry budget."""

    def __init__(
        self,
        max_attempts: int,
        budget: RetryBudget,
        refused: Count,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.max_attempts, self.budget, self._refused = max_attempts, budget, refused
        self.clock, self.wall = clock, wall

    async def dispatch(self, call: Call, decision: Decision, route: Route) -> Opened:
        """The first good attempt. Raises ClientError for the caller's fault, ServiceError when all failed."""
        self.budget.deposit()
        failed: list[_Failed] = []
        waiting, sent = list(decision.order), 0
        while waiting and sent < self.max_attempts and not decision.left:
            if sent and (reason := self._why_not_again(call)):
                decision.notes.append(("attempts", reason))
                break
            candidate = waiting.pop(0)
            lane = route.lanes[candidate.name]
            attempt = Attempt(candidate, self.clock())
            decision.attempts.append(attempt)
            if call.trace is not None:
                call = _within(attempt, call, call.trace)
            try:
                return await self._attempt(call, lane, candidate, attempt)
            except UpstreamError as error:
                failed.append(self._judged(call, lane, attempt, error))
                if error.sent and error.kind in charges.MAYBE_BILLED:
                    self._charge(call, lane, candidate, attempt)
            except asyncio.CancelledError:
                self._charge(call, lane, candidate, attempt)
                raise
            sent += failed[-1].outcome.fault != "unfit"
            if not failed[-1].outcome.retry:
                waiting = _after_overflow(failed[-1], candidate, waiting)
        raise self._verdict(failed)

    def _why_not_again(self, call: Call) -> str:
        """Why there is no further attempt; "" when there is, which the budget then has counted."""
        if self.clock() >= call.deadline - LEAST_S:
            return "no further attempt: the call's deadline is over"
        if self.budget.withdraw():
            return ""
        self._refused.inc()
        return "no further attempt: the retry budget is used up"

    async def _attempt(self, call: Call, lane: Lane, candidate: Candidate, attempt: Attempt) -> Opened:
        with Lease() as lease:
            lane.facts.begin()
            lease.callback(lane.facts.end)
            reply = await lane.provider.send(call, lane.deployment)
            lease.callback(reply.close)
            attempt.degraded = reply.degraded
            self._observe(lane, reply)
            if call.stream:
                stream = relay.Stream(call, reply, lane.stream_end)
                await stream.open()
                attempt.first_byte = self.clock()
                return Opened(lane, candidate, attempt, reply, lease.pop_all(), None, stream)
            body = await reply.read()
            plain = answer.read(body, reply.headers.get("content-type", ""), call.endpoint)
            attempt.first_byte = self.clock()
            return Opened(lane, candidate, attempt, reply, lease.pop_all(), plain, None)

    def _charge(self, call: Call, lane: Lane, candidate: Candidate, attempt: Attempt) -> None:
        """What an attempt without an answer may yet be billed."""
        usage = charges.undelivered(call, candidate, self.clock() - attempt.began)
        lane.charge(attempt, usage, charges.nano(candidate, usage), self.wall())

    def _observe(self, lane: Lane, reply: Reply) -> None:
        seen = lane.provider.observe(reply, self.clock())
        if seen.room is not None:
            lane.facts.see_room(seen.room)
        if seen.queue is not None or seen.kv_used is not None:
            lane.facts.see_load(seen.queue, seen.kv_used)

    def _judged(self, call: Call, lane: Lane, attempt: Attempt, error: UpstreamError) -> _Failed:
        outcome = judge(error)
        wait = retry_after_s(error.headers, self.wall())
        if wait is None and outcome.fault == "quota":
            wait = rate_limit_reset_s(error.headers)
        now = self.clock()
        attempt.outcome, attempt.message, attempt.status, attempt.ended = outcome.name, error.message, error.status, now
        lane.bound.attempts[outcome.name].inc()
        if outcome.fault == "credential":
            lane.bound.auth.inc()
        if outcome.counts and not (error.kind == "total_timeout" and _hurried(call, lane, now - attempt.began, now)):
            lane.facts.failed(outcome, wait, now)
        return _Failed(lane, error, outcome, wait)

    def _verdict(self, failed: Sequence[_Failed]) -> Answerable:
        """The answer to the caller after the last attempt."""
        failed = [f for f in failed if f.outcome.fault != "unfit"] or failed
        last = failed[-1]
        if last.outcome.fault == "unfit":
            return passed_on(_of_all(failed), last.outcome, last.lane.provider.secrets)
        if last.outcome.fault in ("caller", "overflow"):
            return passed_on(last.error, last.outcome, last.lane.provider.secrets)
        waits = [f.retry_after_s for f in failed if f.retry_after_s is not None]
        rows = [(f.lane.deployment.name, f.error, f.outcome) for f in failed]
        return final_error(rows, min(waits, default=1.0 if _none_said(failed) else None))


def _of_all(failed: Sequence[_Failed]) -> UpstreamError:
    """The last refusal, in the words of all: each names its deployment."""
    words = dict.fromkeys(f.error.detail.message for f in failed)
    last = failed[-1].error
    last.detail = msgspec.structs.replace(last.detail, message=" ".join(words))
    return last


def _within(attempt: Attempt, call: Call, trace: Trace) -> Call:
    """The call within a span of the attempt's own."""
    below = trace.child()
    attempt.span = below.span
    return msgspec.structs.replace(call, trace=below)


def _hurried(call: Call, lane: Lane, seconds: float, now: float) -> bool:
    """Whether the caller's own deadline ended an attempt in less time than the deployment may well need: that says
    nothing about the deployment, and one caller's haste may not close it to the others."""
    known = (lane.facts.stream if call.stream else lane.facts.plain).ttft
    return now >= call.deadline - LEAST_S and seconds < (3 * known.p95_s if known else UNKNOWN_S)


def _none_said(failed: Iterable[_Failed]) -> bool:
    """Whether to come again soon is good advice where no cloud gave any."""
    return all(f.outcome.fault in ("quota", "ours") for f in failed)


def _after_overflow(failed: _Failed, candidate: Candidate, waiting: Sequence[Candidate]) -> list[Candidate]:
    """Who may still be tried after the caller's fault: nobody, or larger windows after an overflow."""
    had = candidate.deployment.context_tokens
    if failed.outcome.fault != "overflow" or had is None:
        return []
    return [c for c in waiting if (c.deployment.context_tokens or 0) > had]


def passed_on(error: UpstreamError, outcome: Outcome, secrets: Sequence[str]) -> Answerable:
    """The cloud's own words to a caller whose fault it was, in OpenAI's shape, our credential struck out."""
    detail = error.detail
    said = detail.message or f"The upstream refused the request with status {error.status}."
    code = "context_length_exceeded" if outcome.fault == "overflow" else detail.code
    return ClientError(
        error.status if 400 <= error.status < 500 else 400,
        None if code is None else struck(str(code), secrets)[:MAX_CODE],
        struck(said, secrets),
        param=None if detail.param is None else struck(detail.param, secrets),
        type_=struck(detail.type or "invalid_request_error", secrets),
    )
