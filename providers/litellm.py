"""The leaf for everyone else: whatever litellm speaks, through litellm. The only file that imports it.

Rule 1. Imported when an account names it, in a thread, before readiness (about 3 s and 190 MB).
Rule 2. Retries, downloads, callbacks and telemetry of its own are off: attempts are the gateway's.
Rule 3. What it raises becomes an UpstreamError with the status and headers of the cloud behind it.

Source: litellm 1.106.2, run. Headers of a refusal are on `litellm_response_headers`, not on the response."""

import asyncio
import importlib.util
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import msgspec

from gateway import sse
from gateway.account import Account
from gateway.errors import Detail, UpstreamError
from gateway.secret import Secret
from gateway.types import Call, Deployment, Observed, Provider, Reply

INSTALL = "litellm is not installed: pip install 'arriero[litellm]'"
WORDS = frozenset(
    """
    audio best_of dimensions echo encoding_format frequency_penalty function_call functions input logit_bias logprobs
    max_completion_tokens max_tokens messages modalities n parallel_tool_calls prediction presence_penalty prompt
    reasoning_effort response_format seed service_tier stop store stream stream_options suffix temperature tool_choice
    tools top_logprobs top_p user verbosity web_search_options
    """.split()  # noqa: SIM905  (a list of forty quotes reads worse)
)
"""What of a request becomes arguments of litellm: OpenAI's words. Among litellm's own are `fallbacks`, `model_list`,
`custom_llm_provider`, `aws_bedrock_runtime_endpoint` and the like, which choose where a call goes with the operator's
key: whatever is not listed travels in the request's body only, where the cloud takes such fields."""
CALLS = {"chat/completions": "acompletion", "completions": "atext_completion", "embeddings": "aembedding"}


class LiteLLM(Account, frozen=True, kw_only=True):
    """Deployments name the model as litellm does, such as `together_ai/meta-llama/Llama-3.3-70B-Instruct-Turbo`.

    `url` is litellm's api_base; `options` are further arguments of its call, such as `aws_region_name`."""

    title = "everyone else (`arriero[litellm]`)"
    credentials = "as litellm has it"
    api_key: Secret | None = None
    options: dict[str, str] = {}  # noqa: RUF012  (msgspec copies it)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proxy is not None:
            raise ValueError("'proxy' is not for litellm, which takes HTTPS_PROXY and NO_PROXY from the environment")

    def open(self, name: str, clock: Callable[[], float] = time.monotonic) -> Provider:
        """Raises ValueError when litellm is not installed."""
        if importlib.util.find_spec("litellm") is None:
            raise ValueError(INSTALL)
        return Leaf(self, name, clock)


def _import() -> ModuleType:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its price list is not fetched
    os.environ["LITELLM_MODE"] = "PRODUCTION"  # no .env file is read
    import litellm

    litellm.telemetry = False
    litellm.num_retries = 0
    litellm.suppress_debug_info = True
    litellm.disable_hf_tokenizer_download = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = False
    found: ModuleType = litellm
    return found


class Leaf:
    """The running side of an account."""

    poll_every_s = 0.0

    def __init__(self, account: LiteLLM, name: str, clock: Callable[[], float]) -> None:
        self.account, self.name, self.clock = account, name, clock
        self._litellm: Any = None  # a module without types
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def secrets(self) -> Sequence[str]:
        return [self.account.api_key.reveal()] if self.account.api_key else []

    async def start(self) -> None:
        """Imports litellm off the event loop."""
        self._litellm = await asyncio.to_thread(_import)

    async def send(self, call: Call, deployment: Deployment) -> Reply:
        timeouts = self.account.timeouts
        function = getattr(self._litellm, CALLS[call.endpoint])
        left_s = call.deadline - self.clock()
        try:
            async with asyncio.timeout(min(timeouts.first_byte_s, left_s)):
                answer = await function(**self._arguments(call, deployment))
        except TimeoutError as error:
            if left_s < timeouts.first_byte_s:
                raise UpstreamError("total_timeout", "sent no answer before the call's deadline") from error
            raise UpstreamError("first_byte_timeout", f"sent no answer within {timeouts.first_byte_s:g} s") from error
        except Exception as error:
            raise _translated(error, self._litellm) from error
        headers = _headers(getattr(answer, "_hidden_params", {}).get("additional_headers"))
        if call.stream:
            return StreamedReply(answer, headers, timeouts.idle_s, self._close_later, self._litellm)
        return WholeReply(answer.model_dump_json(exclude_unset=False).encode(), headers)

    def _arguments(self, call: Call, deployment: Deployment) -> Mapping[str, Any]:
        """The caller's fields as litellm's arguments; account and model are ours."""
        said = msgspec.json.decode(call.body, type=dict[str, Any])
        fields = {name: value for name, value in said.items() if name in WORDS}
        others = {name: value for name, value in said.items() if name not in WORDS and name != "model"}
        if others:
            fields["extra_body"] = others
        if call.stream:
            fields["stream_options"] = {"include_usage": True}
        ours: dict[str, Any] = {"model": deployment.model, "num_retries": 0, "max_retries": 0, **self.account.options}
        ours["timeout"] = self.account.timeouts.total_s
        if self.account.api_key:
            ours["api_key"] = self.account.api_key.reveal()
        if self.account.url:
            ours["api_base"] = self.account.url
        return fields | ours

    def _close_later(self, stream: Any) -> None:
        """litellm closes asynchronously; the task is kept until it is done."""
        task = asyncio.get_running_loop().create_task(_close(stream))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def observe(self, reply: Reply, now: float) -> Observed:
        return Observed()

    async def poll(self) -> Observed:
        return Observed()

    async def aclose(self) -> None:
        await asyncio.gather(*self._closing, return_exceptions=True)


async def _close(stream: Any) -> None:
    """Whatever way this version of litellm has to let go of the connection."""
    for owner in (stream, getattr(stream, "completion_stream", None)):
        close = getattr(owner, "aclose", None) or getattr(owner, "close", None)
        if close is not None:
            done = close()
            if asyncio.iscoroutine(done):
                await done
            return


def _headers(found: object) -> Mapping[str, str]:
    """The cloud's own headers, which litellm prefixes with `llm_provider-`."""
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(name).lower().removeprefix("llm_provider-"): str(value) for name, value in pairs}


def _translated(error: Exception, litellm: Any) -> UpstreamError:
    """litellm's exception as ours: by status where it has one, else as a broken connection."""
    if isinstance(error, litellm.exceptions.Timeout):
        return UpstreamError("total_timeout", "did not answer in time (litellm)")
    if isinstance(error, litellm.exceptions.APIConnectionError):
        return UpstreamError("reset", "could not be reached (litellm)")
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        return UpstreamError("protocol", f"failed in litellm ({type(error).__name__})")
    headers = _headers(getattr(error, "litellm_response_headers", None))
    detail = Detail(str(getattr(error, "message", "")), getattr(error, "type", None), getattr(error, "param", None))
    return UpstreamError("status", f"answered {status}", status=status, detail=detail, headers=headers)


class WholeReply:
    """A plain answer, already whole."""

    degraded: Mapping[str, str] = {}

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body = body
        self.status = 200
        self.headers: Mapping[str, str] = {**headers, "content-type": "application/json"}

    async def read(self) -> bytes:
        return self._body

    async def chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def alive(self) -> None:
        """Nothing to time: it is whole."""

    def close(self) -> None:
        """Nothing is held."""


class StreamedReply:
    """litellm's chunks as server-sent events."""

    degraded: Mapping[str, str] = {}

    def __init__(
        self,
        stream: Any,
        headers: Mapping[str, str],
        idle_s: float,
        close_later: Callable[[Any], None],
        litellm: Any,
    ) -> None:
        self._stream, self._idle_s, self._close_later, self._litellm = stream, idle_s, close_later, litellm
        self._chunks: AsyncIterator[Any] = aiter(stream)
        self._ended = self._closed = False
        self.status = 200
        self.headers: Mapping[str, str] = {**headers, "content-type": "text/event-stream"}

    async def read(self) -> bytes:
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def chunk(self) -> bytes:
        if self._ended:
            return b""
        try:
            async with asyncio.timeout(self._idle_s):
                found = await anext(self._chunks)
        except StopAsyncIteration:
            self._ended = True
            return sse.DONE
        except TimeoutError as error:
            raise UpstreamError("idle_timeout", f"sent nothing for {self._idle_s:g} s") from error
        except Exception as error:
            raise _translated(error, self._litellm) from error
        return sse.event(found.model_dump_json(exclude_none=True).encode())

    def alive(self) -> None:
        """Every chunk is data."""

    def close(self) -> None:
        if not self._closed and not self._ended:
            self._close_later(self._stream)
        self._closed = True
