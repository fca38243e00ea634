"""POST /v1/chat/completions, /v1/completions, /v1/embeddings: the way of a call, each step once.

Rule 1. Know the caller, read the body, peek, decide, dispatch, relay, settle; no framework on the way.
Rule 2. Whatever happens, the call is settled once and its lease is closed.
Rule 3. A client that left gets no further attempt: our task is cancelled, or goes on where the answer is paid to its
        end all the same. A call that is cut at the end of the grace period is told so.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from gateway import answer, auth, relay
from gateway.dispatch import Opened
from gateway.endpoints import http
from gateway.errors import Answerable, ClientError, ServiceError
from gateway.front.cycle import Cycle
from gateway.lane import Route
from gateway.ledger.rows import charged
from gateway.limits.limiter import Hold
from gateway.parts import Current, Parts
from gateway.peek import Peeked, peek
from gateway.prices import usd
from gateway.router import Decision, decide, nobody
from gateway.settle import Ended
from gateway.types import Call, Endpoint, Tenant, Usage

DEFAULT_DEADLINE_S = 600.0
BODY_IDLE_S = 30.0
"""How long the next piece of a request body may take."""
UNSAID_BYTES = 1024 * 1024
"""What is made ready for a body that does not say how large it is."""
STALL_S = 5.0
"""How long after its deadline a client may still read what it was sent; then its connection is cut."""


class Inference:
    """One path of the family."""

    def __init__(self, endpoint: Endpoint, current: Current) -> None:
        self.endpoint, self.current = endpoint, current

    def __call__(self, cycle: Cycle) -> Coroutine[Any, Any, None]:
        return Exchange(self.endpoint, self.current.parts, cycle).run()


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "began", "clock", "connection", "cycle", "deadline", "decision", "ended", "endpoint", "headers", "hold", "id",
        "live", "new", "opened", "parts", "route", "settled", "started", "tenant", "usage",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint, parts: Parts, cycle: Cycle) -> None:
        self.endpoint, self.parts, self.live = endpoint, parts, parts.live
        self.cycle, self.connection = cycle, cycle.connection
        self.clock = parts.fleet.clock
        self.began = self.clock()
        self.headers = cycle.headers
        self.new = http.fresh()
        self.id = http.request_id(self.headers, self.new)
        self.deadline = self.began + DEFAULT_DEADLINE_S
        self.tenant = auth.ANONYMOUS
        self.route: Route | None = None
        self.decision: Decision | None = None
        self.hold: Hold | None = None
        self.opened: Opened | None = None
        self.usage: Usage | None = None
        self.started = self.ended = self.settled = False

    def cancel(self) -> None:
        """Its client left."""
        if not (self._is_paid_to_the_end() and self.live.hear_out(self.cycle.task)):
            self.cycle.task.cancel()
            return
        assert self.decision is not None
        self.decision.left = self.cycle.disconnected = True
        self.decision.notes.append(("client", "left; the answer is read on, for it is paid to its end"))

    def _is_paid_to_the_end(self) -> bool:
        """Whether an attempt is under way at a cloud that bills what it says, whoever hears it."""
        attempts = self.decision.attempts if self.decision is not None else []
        if not attempts or attempts[-1].ended is not None or self.route is None:
            return False
        return self.route.lanes[attempts[-1].deployment].drains

    async def run(self) -> None:
        """Answers, and settles however that ended."""
        task = self.cycle.task
        self.live.begin(task)
        self.connection.cancel_when_lost(self)
        ended = Ended(500, "internal_error")
        try:
            ended = await self._answered()
        except asyncio.CancelledError:
            task.uncancel()
            ended = Ended(499, "client_gone") if self.connection.lost else self._cut()
        except Answerable as error:
            ended = self._refused(error)
        except Exception as error:  # noqa: BLE001  (the outermost place)
            ended = self._failed(error)
        finally:
            try:
                self._settle(Ended(499, "client_gone") if self.decision is not None and self.decision.left else ended)
            finally:
                self.live.end(task)
                if self.connection.task is self:  # the next call of this connection may have begun
                    self.connection.cancel_when_lost(None)

    async def _answered(self) -> Ended:
        self.tenant = self.parts.keyring.tenant(self.headers.get(b"authorization"))
        if self.live.closed or self.live.shed or self.connection.unwanted:
            raise self._not_taken()
        self.deadline = self.began + self._timeout_s()
        body = self._body_here() if not self.cycle.more_body else await self._body_to_come()
        self.connection.read_on()
        peeked = peek(body, self.endpoint)
        self.route = route = self.parts.fleet.route(peeked.model, self.tenant)
        auth.authorize(self.tenant, route.name)
        call = self._call(route, peeked, body)
        self.decision = self._decided(call, route)
        self.parts.settlement.begin(self.decision)
        if not self.decision.order:
            raise nobody(self.decision)
        if rules := self.parts.limiter.rules(self.tenant, route.name):
            self.hold = await self.parts.limiter.reserve(rules, self.decision)
            call = self.decision.call
        self.opened = await self.parts.dispatcher.dispatch(call, self.decision, route)
        with self.opened.lease:
            return await (self._stream(self.opened) if call.stream else self._plain(self.opened))

    def _body_here(self) -> bytes:
        """The request's body when all of it is here, as nearly always. Raises ClientError."""
        limit_bytes = self.parts.fleet.config.server.max_body_bytes
        http.check_length(self.headers, limit_bytes)
        return http.within(self.cycle.take_body(), limit_bytes)

    async def _body_to_come(self) -> bytes:
        """The same as it comes. Raises ClientError, 408 among others."""
        limit_bytes = self.parts.fleet.config.server.max_body_bytes
        http.check_length(self.headers, limit_bytes)
        with self.live.body(http.length(self.headers, min(limit_bytes, UNSAID_BYTES))):
            body = await http.read_body(self._more_in_time, limit_bytes)
        if self.cycle.disconnected:
            raise ClientError(400, "invalid_request", "The client left before its request was whole.")
        return body

    async def _more_in_time(self) -> bytes:
        try:
            async with asyncio.timeout(min(BODY_IDLE_S, self.deadline - self.clock())):
                piece = await self.cycle.more()
        except TimeoutError:
            self.cycle.close_after_answer()
            raise ClientError(408, "request_timeout", "The request body stopped coming: send it again.") from None
        if piece and self.live.shed:
            raise self._not_taken()
        return piece

    def _not_taken(self) -> ServiceError:
        """On a connection that ends, unless more of the request comes, which would then be lost with our answer."""
        if not self.cycle.more_body:
            self.cycle.close_after_answer()
        return self.live.refusal()

    def _call(self, route: Route, peeked: Peeked, body: bytes) -> Call:
        session = self.headers.get(b"x-arriero-session")
        labels = self.headers.get(b"x-arriero-labels")
        traces = self.parts.settlement.traces
        expected = self.parts.fleet.health.expected_output_tokens(
            route.name, self.tenant.name, peeked.max_output_tokens
        )
        return Call(
            id=self.id,
            tenant=self.tenant,
            route=route.name,
            model=peeked.model,
            endpoint=self.endpoint,
            stream=peeked.stream,
            features=peeked.features,
            stop_count=peeked.stop_count,
            choices=peeked.choices,
            prompt_tokens=peeked.prompt_tokens,
            longest_prompt_tokens=peeked.longest_prompt_tokens,
            max_output_tokens=peeked.max_output_tokens,
            expected_output_tokens=0 if self.endpoint == "embeddings" else expected * peeked.choices,
            labels=auth.labels(self.tenant, labels.decode("latin-1") if labels else None),
            session=session.decode("latin-1")[:256] if session else None,
            deadline=self.deadline,
            include_usage=peeked.include_usage,
            body=body,
            fields=peeked.fields,
            trace=traces.begin(self.headers) if traces is not None else None,
        )

    def _timeout_s(self) -> float:
        given = self.headers.get(b"x-arriero-timeout-s")
        if given is None:
            return DEFAULT_DEADLINE_S
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise ClientError(400, "invalid_request", "x-arriero-timeout-s must be a positive number of seconds.")
        return min(seconds, DEFAULT_DEADLINE_S)

    def _decided(self, call: Call, route: Route) -> Decision:
        now = self.clock()
        decision = decide(call, route.candidates(now), route.policies, now)
        decision.wall = self.parts.settlement.wall()
        decision.id = f"dec_{self.new}"
        return decision

    def _head(self) -> http.Headers:
        """The headers of every answer, as far as the call got."""
        head = [(b"x-request-id", self.id.encode())]
        if self.live.draining:
            head.append((b"connection", b"close"))
        if self.hold is not None:
            head += self.hold.headers
        if self.decision is not None:
            head.append((b"x-arriero-decision", self.decision.id.encode()))
            head.append((b"x-arriero-attempts", b"%d" % len(self.decision.attempts)))
            if self.decision.attempts:
                last = self.decision.attempts[-1]
                head.append((b"x-arriero-deployment", last.deployment.encode()))
                if last.degraded:
                    said = ",".join(f"{what}={how}" for what, how in last.degraded.items())
                    head.append((b"x-arriero-degraded", said.encode()))
        return head

    async def _plain(self, opened: Opened) -> Ended:
        assert self.decision is not None
        assert opened.plain is not None
        call = self.decision.call
        body = answer.renamed(opened.plain, call.model)
        self._settle_attempt(whole=True)
        opened.lease.close()
        self._settle_hold(self.decision, Ended(200))  # before its caller can send the next
        cost = (b"x-arriero-cost-usd", usd(opened.attempt.cost_nano).encode())
        self.started = self.ended = True
        http.send_json(self.cycle, 200, body, [*self._head(), cost])
        if self.cycle.backlogged:  # the call lives until its client has the answer
            with self.connection.at_most(self._left_s() + STALL_S):
                await self.cycle.room()
        return Ended(200)

    async def _stream(self, opened: Opened) -> Ended:
        assert opened.stream is not None
        head = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), *self._head()]
        self.started = True
        with self.connection.at_most(self._left_s() + STALL_S):
            self.cycle.begin(200, head)
            while piece := await opened.stream.piece():
                self.cycle.write(piece)
                if self.cycle.backlogged:
                    await self.cycle.room()
            fault = opened.stream.fault
            self._close_stream(b"", whole=fault is None)
        self._settle_attempt(whole=fault is None)
        await opened.stream.finish()
        return Ended(200, "stream_incomplete" if fault else "")

    def _left_s(self) -> float:
        assert self.decision is not None
        return max(0.0, self.decision.call.deadline - self.clock())

    def _close_stream(self, last: bytes, *, whole: bool) -> None:
        self.connection.cancel_when_lost(None)
        if not whole:
            self.cycle.close_after_answer()
        self.cycle.write(last, more=False)
        self.ended = True

    def _cut(self) -> Ended:
        """The grace period is over: what was begun is said to be incomplete, what was not is refused."""
        if not self.started:
            error = ServiceError(
                503, "overloaded", "This gateway went away before the call was answered.", retry_after_s=1
            )
            return self._refused(error)
        if self.ended:
            return Ended(200)
        self._close_stream(relay.incomplete("This gateway went away."), whole=False)
        return Ended(200, "stream_incomplete")

    def _refused(self, error: Answerable) -> Ended:
        http.send_error(self.cycle, error, self._head())
        return Ended(error.status, error.code or "")

    def _failed(self, error: Exception) -> Ended:
        """A bug of ours: said without any of the values involved."""
        self.parts.settlement.log.bug(error, id=self.id)
        if self.started:
            if not self.ended:
                self._close_stream(relay.incomplete("The gateway failed."), whole=False)
            return Ended(500, "internal_error")
        message = f"The gateway failed on this request; its id is {self.id}."
        return self._refused(ServiceError(500, "internal_error", message))

    def _settle_attempt(self, *, whole: bool) -> None:
        """At most once, also when it fails half-way: spend is never counted twice."""
        if self.opened is not None and not self.settled and self.decision is not None:
            self.settled = True
            self.usage = self.parts.settlement.attempt(self.decision.call, self.opened, self.clock(), whole=whole)

    def _settle_hold(self, decision: Decision, ended: Ended) -> None:
        """The truth in place of what was reserved; nothing for a call that got no answer, unless its client left."""
        if self.hold is not None and not self.hold.settled:
            attempt = charged(decision, self.opened.attempt if self.opened is not None else None, ended.status)
            usage = attempt.usage if attempt is not None and attempt.usage is not None else Usage(0, 0)
            self.hold.settle(usage.prompt_tokens + usage.output_tokens, attempt.cost_nano if attempt is not None else 0)

    def _settle(self, ended: Ended) -> None:
        if self.decision is None:
            tenant: Tenant = self.tenant
            self.parts.settlement.refused(self.id, tenant.name, self.endpoint, ended, self.clock() - self.began)
            return
        try:
            self._settle_attempt(whole=False)
        finally:
            self._settle_hold(self.decision, ended)
        self.parts.settlement.call(self.decision, self.opened, self.usage, ended, self.began)
