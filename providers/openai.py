"""Any OpenAI-compatible server: the pass-through dialect that the others inherit and say only their difference from.

Rule 1. The caller's bytes go on as they came; only the fields of `changes` are rewritten.
Rule 2. Each attempt carries only its own account's credential, and nothing of the caller's headers.
Rule 3. Reading an answer never raises anything but UpstreamError.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from gateway.account import Account
from gateway.errors import Detail, UpstreamError
from gateway.outcome import go_duration_s
from gateway.peek import rewrite, spans
from gateway.secret import Secret
from gateway.transport.client import Client, Response, begun_head, ended_head, request_head
from gateway.types import Call, Deployment, Endpoint, Observed, Provider, Reply, Room, lacking
from providers._emulation import EMULATES
from providers._passed import answer, prepared
from providers.credentials.access_token import AccessToken

_encode = msgspec.json.Encoder().encode
MAX_ERROR_BYTES = 65536
ERROR_BODY_S = 1.0
"""How long the rest of an error answer is waited for: its status says enough to try elsewhere."""
POLL_S = 2.0
LOOK_S = 2.0
"""How long the heads of requests are kept where a credential in them comes from a file."""


class OpenAI(Account, frozen=True, kw_only=True):
    """`url` is the base that `/chat/completions` is added to, such as https://api.openai.com/v1. `emulates` are the
    features that the gateway may stand in for where a model lacks them. `trace_context` tells the server in which trace
    it works; clouds of others are not told unless it is said."""

    title = "anything OpenAI-compatible"
    credentials = "API key"
    api_key: Secret | None = None
    stream_usage: bool = True
    emulates: frozenset[str] = EMULATES
    trace_context: bool = True

    default_url = "https://api.openai.com/v1"
    token_refusals = frozenset({401})
    """The statuses at which another access token is worth one more try."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := self.emulates - EMULATES:
            raise ValueError(f"'emulates' may hold {', '.join(sorted(EMULATES))}, not '{min(unknown)}'")

    def takes(self, model: str) -> frozenset[str] | None:
        """OpenAI's chat parameters that this cloud takes for a model, if it refuses the others; None: all of them."""
        return None

    def base_url(self) -> str:
        return (self.url or self.default_url).rstrip("/")

    def target(self, deployment: Deployment, endpoint: Endpoint) -> str:
        """Path and query of a call, below the origin."""
        return f"{urlsplit(self.base_url()).path}/{endpoint}"

    def headers(self) -> Sequence[tuple[str, str]]:
        """The credential, and what else this dialect wants said."""
        return [("authorization", f"Bearer {self.api_key.reveal()}")] if self.api_key else []

    def secrets(self) -> Sequence[str]:
        return [self.api_key.reveal()] if self.api_key else []

    def changes(self, call: Call, deployment: Deployment) -> Mapping[str, bytes | None]:
        """The top-level fields to rewrite: the model, and usage asked for in every stream."""
        changes: dict[str, bytes | None] = {"model": _encode(deployment.adapter or deployment.model)}
        if call.stream and not self.stream_usage:
            changes["stream_options"] = None
        elif call.stream and not call.include_usage:
            changes["stream_options"] = _asking_for_usage(call)
        return changes

    def reply(self, call: Call, response: Response, degraded: Mapping[str, str]) -> Reply:
        """A good answer on its way to the caller."""
        return PassedReply(response, self.timeouts.first_byte_s, degraded)

    def detail(self, body: bytes) -> Detail:
        """The error object of an error answer, in OpenAI's words."""
        return read_detail(body)

    def room(self, headers: Mapping[str, str], now: float) -> Room | None:
        """What OpenAI's and Groq's `x-ratelimit-*` headers say is left."""
        return read_room(headers, now)

    def load(self, headers: Mapping[str, str]) -> tuple[int | None, float | None]:
        """Calls waiting at the server and the used share of its KV cache, where it tells."""
        return None, None

    def poll_every_s(self) -> float:
        """How often /metrics is worth reading; 0 for a cloud that has none."""
        return 0.0

    def state(self, metrics: str) -> Observed:
        """What a metrics page tells."""
        return Observed()

    def access_token(self, clock: Callable[[], float]) -> AccessToken | None:
        """What each call's bearer token is had from; None where `headers` hold the credential. Raises ValueError."""
        return None

    def open(self, name: str, clock: Callable[[], float] = time.monotonic) -> Provider:
        return Passthrough(self, name, clock)


def _asking_for_usage(call: Call) -> bytes:
    """The caller's `stream_options` with usage asked for."""
    span = call.fields.get("stream_options")
    said = call.body[span.start : span.end] if span else b"null"
    return b'{"include_usage":true}' if said == b"null" else rewrite(said, spans(said), {"include_usage": b"true"})


def read_detail(body: bytes) -> Detail:
    """`{"error": {…}}`, `{"error": "text"}`, the bare object, or a list with one of them; empty for anything else.

    Sources: OpenAI; vLLM's 401 (a string); Google (a list, `status` in words); Azure and Databricks (bare objects)."""
    try:
        found = msgspec.json.decode(body[:MAX_ERROR_BYTES])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Detail()
    if isinstance(found, list):
        found = found[0] if found else None
    inner = found.get("error", found) if isinstance(found, dict) else None
    if isinstance(inner, str):
        return Detail(inner)
    if not isinstance(inner, dict):
        return Detail()
    code = inner.get("code", inner.get("error_code"))
    kind = inner.get("type") or inner.get("status")
    return Detail(
        _text(inner.get("message") or inner.get("detail")) or "",
        kind if isinstance(kind, str) else None,
        _text(inner.get("param")),
        code if isinstance(code, str | int) else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def read_room(headers: Mapping[str, str], now: float) -> Room | None:
    if "x-ratelimit-remaining-requests" not in headers and "x-ratelimit-remaining-tokens" not in headers:
        return None
    requests, requests_reset = _left(headers, "requests", now)
    tokens, tokens_reset = _left(headers, "tokens", now)
    return Room(requests, requests_reset, tokens, tokens_reset)


def _left(headers: Mapping[str, str], kind: str, now: float) -> tuple[float, float]:
    """The share of one limit that is left and when it is whole again; (1.0, 0.0) where it is not said."""
    try:
        limit = float(headers[f"x-ratelimit-limit-{kind}"])
        remaining = float(headers[f"x-ratelimit-remaining-{kind}"])
    except (KeyError, ValueError):
        return 1.0, 0.0
    if not 0 < limit < math.inf or not 0 <= remaining < math.inf:
        return 1.0, 0.0
    reset = go_duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
    return min(remaining / limit, 1.0), now + (reset if reset is not None else 60.0)


class Passthrough:
    """The running side of an account: one connection pool, requests out, answers back."""

    def __init__(self, account: OpenAI, name: str, clock: Callable[[], float]) -> None:
        self.account, self.name, self.clock = account, name, clock
        parts = urlsplit(account.base_url())
        self.host = parts.netloc
        self._begun: dict[tuple[str, str, Endpoint, bool], bytes] = {}
        self._look_at = clock() + LOOK_S if in_files(account) else 0.0  # 0: never
        self.token = account.access_token(clock)
        self.client = Client(account.origin(account.base_url()), clock)

    @property
    def secrets(self) -> Sequence[str]:
        return [*self.account.secrets(), *(self.token.secrets() if self.token else ())]

    async def start(self) -> None:
        """A connection is opened by the first call; a token is fetched now, which nobody waits for."""
        if self.token is not None:
            self.token.start()

    async def send(self, call: Call, deployment: Deployment) -> Reply:
        if self._is_able(call, deployment):  # nearly all
            return self.account.reply(call, await self._carried(call, deployment), {})
        made = prepared(call, deployment, self.account.takes(deployment.model))
        if made.plan.emulated:
            first_byte_s = self.account.timeouts.first_byte_s
            return await answer(made, deployment, lambda asked: self._carried(asked, deployment), first_byte_s)
        return self.account.reply(call, await self._carried(made.call, deployment), made.plan.degraded)

    def _is_able(self, call: Call, deployment: Deployment) -> bool:
        """Whether the cloud does all that is asked by itself, so that the body goes on as it came."""
        if not call.features <= deployment.features or (call.stop_count and lacking(call, deployment)):
            return False
        takes = self.account.takes(deployment.model)
        return takes is None or call.fields.keys() <= takes or call.endpoint != "chat/completions"

    def _carried(self, call: Call, deployment: Deployment) -> Awaitable[Response]:
        """The head of a good answer. Raises UpstreamError."""
        body = rewrite(call.body, call.fields, self.account.changes(call, deployment))
        if self.token is None:
            return self._sent(call, deployment, body, ())
        return self._sent_with(self.token, call, deployment, body)

    async def _sent_with(self, tokens: AccessToken, call: Call, deployment: Deployment, body: bytes) -> Response:
        """The same with an access token; one that is refused is had anew once."""
        token = await tokens.get(call.deadline)
        try:
            return await self._sent(call, deployment, body, _bearer(token))
        except UpstreamError as error:
            again = error.status in self.account.token_refusals
            renewed = await tokens.renew(token, call.deadline) if again else None
            if renewed is None:
                raise
        return await self._sent(call, deployment, body, _bearer(renewed))

    async def _sent(
        self, call: Call, deployment: Deployment, body: bytes, bearer: Sequence[tuple[str, str]]
    ) -> Response:
        head = self._head(call, deployment, len(body), bearer)
        response = await self.client.request(head, body, call.deadline)
        if response.status != 200:
            raise await self._refused(response)
        return response

    def _head(self, call: Call, deployment: Deployment, length: int, bearer: Sequence[tuple[str, str]]) -> bytes:
        key = (call.route, deployment.name, call.endpoint, call.stream)
        if self._look_at and self.clock() >= self._look_at:  # a credential in a file may be another one
            self._begun, self._look_at = {}, self.clock() + LOOK_S
        begun = self._begun.get(key)
        if begun is None:
            begun = self._begun[key] = self._begun_head(call, deployment)
        trace = call.trace.headers() if call.trace is not None and self.account.trace_context else ()
        return ended_head(begun, [*bearer, ("x-request-id", call.id), *trace], length)

    def _begun_head(self, call: Call, deployment: Deployment) -> bytes:
        """What the heads of all such calls have in common."""
        headers = [
            *self.account.headers(),
            ("content-type", "application/json"),
            ("accept", "text/event-stream" if call.stream else "application/json"),
            ("accept-encoding", "identity"),
            ("user-agent", "arriero"),
        ]
        return begun_head("POST", self.account.target(deployment, call.endpoint), self.host, headers)

    async def _refused(self, response: Response) -> UpstreamError:
        """The error answer as an error; a body that breaks off or stalls says nothing."""
        try:
            async with asyncio.timeout(ERROR_BODY_S):
                body = await response.read()
        except (UpstreamError, TimeoutError):
            body = b""
        finally:
            response.close()
        status = response.status
        return UpstreamError(
            "status", f"answered {status}", status=status, detail=self.account.detail(body), headers=response.headers
        )

    def observe(self, reply: Reply, now: float) -> Observed:
        room = self.account.room(reply.headers, now)
        queue, kv_used = self.account.load(reply.headers)
        return Observed(room, queue, kv_used)

    @property
    def poll_every_s(self) -> float:
        return self.account.poll_every_s()

    async def poll(self) -> Observed:
        """The server's state from its metrics page. Raises UpstreamError."""
        head = request_head("GET", "/metrics", self.host, [("accept-encoding", "identity")], 0)
        response = await self.client.request(head, b"", self.clock() + POLL_S)
        try:
            if response.status != 200:
                raise UpstreamError("status", f"answered {response.status}", status=response.status)
            return self.account.state((await response.read()).decode("utf-8", "replace"))
        finally:
            response.close()

    async def aclose(self) -> None:
        if self.token is not None:
            await self.token.aclose()
        await self.client.aclose()


def in_files(account: Account) -> bool:
    """Whether a secret of the account is in a file."""
    secrets = [value for value in msgspec.structs.asdict(account).values() if isinstance(value, Secret)]
    return any(secret.source.startswith("file:") for secret in secrets)


def _bearer(token: str) -> Sequence[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


class PassedReply:
    """An answer that is in OpenAI's form already. Until the first data it may be silent as long as a first byte may."""

    __slots__ = ("_first_byte_s", "_response", "degraded", "headers", "status")

    def __init__(self, response: Response, first_byte_s: float, degraded: Mapping[str, str]) -> None:
        self._response, self._first_byte_s, self.degraded = response, first_byte_s, degraded
        self.status, self.headers = response.status, response.headers

    async def read(self) -> bytes:
        return await self._response.read()

    async def chunk(self) -> bytes:
        return await self._response.chunk(self._first_byte_s or None)

    def alive(self) -> None:
        self._first_byte_s = 0.0
        self._response.alive()

    def close(self) -> None:
        self._response.close()
