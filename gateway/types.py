"""The nouns and the two verbs of Arriero; no behaviour lives here beyond a property.

Units: seconds are floats from one monotonic clock, tokens are ints, money is an int of nano-dollars (1 USD = 1e9).
A price is nano-dollars per one million tokens, so that list prices stay exact integers.
"""

import hashlib
import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

NANO_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000
_BITS_64 = 2**64 - 1


class Frozen(msgspec.Struct, frozen=True):
    """A value: equal by content, never changed after it was made."""


class Price(Frozen, frozen=True, omit_defaults=True):
    """Nano-dollars per one million tokens, in and out. Prompt tokens that the cloud had in its cache cost `cached`,
    where that is known; a call of more than `long_tokens` of prompt (0: no such bound) costs `long` as a whole."""

    input: int
    output: int
    cached: int | None = None
    long_tokens: int = 0
    long: "Price | None" = None

    def cost(self, prompt_tokens: int, output_tokens: int, cached_tokens: int = 0) -> int:
        """Nano-dollars for that many tokens, rounded half up once, at the end; `cached_tokens` are of the prompt's."""
        if self.long is not None and prompt_tokens > self.long_tokens > 0:
            return self.long.cost(prompt_tokens, output_tokens, cached_tokens)
        nano = self.input * prompt_tokens + self.output * output_tokens
        if cached_tokens and self.cached is not None:
            nano -= (self.input - self.cached) * min(cached_tokens, prompt_tokens)
        return (nano + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


Missing = Literal["strict", "emulate", "lossy"]
"""What a route wants done about a feature that a deployment lacks: refuse, stand in for it, or else drop it."""


class Deployment(Frozen, frozen=True, kw_only=True):
    """One set of weights at one account, as the config and the catalogue describe it.

    `name` is unique within its route. `features` holds words of FEATURES, `emulates` those that the gateway can stand
    in for where the cloud lacks them, `missing` what the route wants of it. A limit of None is not known.
    `price` is the list price; own GPUs have none and are priced by their utilisation instead. Where the cloud bills
    characters `per_character` is nano-dollars per one million of them, and `price` is an estimate. `price_source` says
    whose price it is. `guardrail` is one of those clouds that have them, in their words.
    """

    name: str
    account: str
    cloud: str
    model: str
    price: Price | None = None
    price_source: str = ""
    per_character: Price | None = None
    gpu_nano_per_s: int = 0
    context_tokens: int | None = None
    max_output_tokens: int | None = None
    features: frozenset[str] = frozenset()
    stop_limit: int | None = None
    emulates: frozenset[str] = frozenset()
    missing: Missing = "emulate"
    weight: float = 1.0
    tier: int = 1
    region: str | None = None
    trust: str | None = None
    adapter: str | None = None
    guardrail: msgspec.Struct | None = None


FEATURES: Mapping[str, str] = {
    "stream": "answers as server-sent events",
    "tools": "tools and tool_choice auto or none",
    "tool_choice": "tool_choice required or a named function",
    "stream_tools": "tools in a streamed answer",
    "parallel_tools": "parallel_tool_calls false",
    "json_object": "response_format json_object",
    "json_schema": "response_format json_schema",
    "logprobs": "logprobs and top_logprobs",
    "n": "more than one choice",
    "seed": "seed",
    "stop": "stop strings",
    "penalties": "frequency_penalty and presence_penalty",
    "logit_bias": "logit_bias",
    "vision": "image parts",
    "audio": "audio parts and audio answers",
    "prefill": "goes on from a last message of the assistant",
    "chat": "POST /v1/chat/completions",
    "completions": "POST /v1/completions",
    "embeddings": "POST /v1/embeddings",
}
"""The words a call may need and a deployment may offer; the catalogue and the config use no others."""

DROPPABLE: Mapping[str, tuple[str, ...]] = {
    "n": ("n",),
    "seed": ("seed",),
    "stop": ("stop",),
    "penalties": ("frequency_penalty", "presence_penalty"),
    "logit_bias": ("logit_bias",),
    "logprobs": ("logprobs", "top_logprobs"),
    "json_object": ("response_format",),
    "json_schema": ("response_format",),
    "tool_choice": ("tool_choice",),
    "parallel_tools": ("parallel_tool_calls",),
}
"""The parameters of each feature that `missing: lossy` may leave out. Tools and pictures are what is asked: never."""


class Limits(Frozen, frozen=True, kw_only=True):
    """Requests a minute, tokens a minute, calls at once; None is no limit. `models` are further limits for the routes
    whose name matches a glob pattern."""

    rpm: int | None = None
    tpm: int | None = None
    concurrent: int | None = None
    models: tuple[tuple[str, "Limits"], ...] = ()


class Budget(Frozen, frozen=True, kw_only=True):
    """Nano-dollars per UTC day, UTC month, or in total; a hard one is never passed."""

    nano: int
    per: Literal["day", "month", "total"]
    hard: bool = False


class Tenant(Frozen, frozen=True):
    """Who calls: a key of the config or of run time, or the anonymous caller of a loopback gateway.

    A route must match one of `routes` and, where the key has a team, one of `team_routes`: glob patterns. `id` is what
    counters and rows are kept by: it stays as long as the key and is never the secret. `team` is the name of a team of
    the config, whose limits and budget hold as well. `expires` is seconds since 1970."""

    name: str
    routes: tuple[str, ...] = ("*",)
    labels: Mapping[str, str] = {}
    id: str = ""
    team: str | None = None
    team_routes: tuple[str, ...] = ("*",)
    limits: Limits | None = None
    budget: Budget | None = None
    expires: float = float("inf")


Endpoint = Literal["chat/completions", "completions", "embeddings"]


class Span(msgspec.Struct, frozen=True, gc=False):
    """Where one top-level field stands in a JSON body: the key's opening quote, the value's first byte, and its end."""

    key: int
    start: int
    end: int


class Trace(NamedTuple):
    """Where a call stands in a W3C trace: ids in hex, `parent` the span above ("" for none), `state` its tracestate."""

    id: str
    span: str
    sampled: bool
    parent: str = ""
    state: str = ""

    def child(self) -> "Trace":
        """A new span below this one."""
        return self._replace(span=f"{random.getrandbits(64) or 1:016x}", parent=self.span)

    def headers(self) -> Sequence[tuple[str, str]]:
        """What a server is told that is called within this span."""
        parent = ("traceparent", f"00-{self.id}-{self.span}-{'01' if self.sampled else '00'}")
        return [parent, ("tracestate", self.state)] if self.state else [parent]


class Call(Frozen, frozen=True, kw_only=True):
    """One client request. `prompt_tokens` is an estimate made from bytes, of all prompts where a call holds several,
    `longest_prompt_tokens` of the longest of them (0: there is one); `choices` are those of all prompts.
    `max_output_tokens` is what the client asked for, per choice; `expected_output_tokens` is what this route and key
    usually get, all choices together, bounded by what was asked. `deadline` is on the monotonic clock. `body` is what
    the client sent, untouched. `include_usage` is whether the client asked to see usage in its stream. `fields` are the
    body's top-level fields. `trace` is None for a call that is not traced. The only chance a policy may use is `dice`,
    made from the id."""

    id: str
    tenant: Tenant
    route: str
    model: str
    endpoint: Endpoint
    stream: bool = False
    features: frozenset[str] = frozenset()
    stop_count: int = 0
    choices: int = 1
    prompt_tokens: int = 0
    longest_prompt_tokens: int = 0
    max_output_tokens: int | None = None
    expected_output_tokens: int = 0
    labels: Mapping[str, str] = {}
    session: str | None = None
    deadline: float = float("inf")
    include_usage: bool = False
    body: bytes = b""
    fields: Mapping[str, Span] = {}
    trace: Trace | None = None


def lacking(call: Call, deployment: Deployment) -> frozenset[str]:
    """The features that a call uses and a deployment has not; `stop` where it takes fewer stop strings."""
    found, limit = call.features - deployment.features, deployment.stop_limit
    return found | {"stop"} if limit is not None and call.stop_count > limit else found


def instead(feature: str, call: Call, deployment: Deployment, missing: Missing) -> str:
    """What is done about a feature that a deployment lacks: `emulated`, which only a chat can be, `dropped`, or ""."""
    if missing != "strict" and feature in deployment.emulates and call.endpoint == "chat/completions":
        return "emulated"
    return "dropped" if missing == "lossy" and feature in DROPPABLE else ""


def dice(call: Call, salt: str) -> float:
    """A number in [0, 1) that is the same for the same call id and salt, and independent between them."""
    return chance(int.from_bytes(hashlib.blake2b(call.id.encode(), digest_size=8).digest(), "little"), salt)


def chance(seed: int, salt: str) -> float:
    """A number in [0, 1) made from a seed of 64 bits and a word, by splitmix64's finaliser (Steele, Lea, Flood 2014).

    A bare CRC would not do: it is linear, so the numbers of two salts would differ by a fixed pattern of bits."""
    mixed = (seed ^ zlib.crc32(salt.encode()) * 0x9E3779B97F4A7C15) & _BITS_64
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _BITS_64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _BITS_64
    return (mixed >> 11) * 2.0**-53


class Quantiles(Frozen, frozen=True):
    """Decaying p50 and p95 in seconds of successful attempts, how many samples made them, when the last one came."""

    p50_s: float
    p95_s: float
    samples: int
    updated: float


class Speed(Frozen, frozen=True):
    """How fast a deployment answers. For streams `ttft` is the time to the first content event and `tpot` the time per
    further output token; for plain calls `ttft` is the time to the whole answer and `tpot` that time divided by the
    output tokens. None where nothing was learned yet."""

    ttft: Quantiles | None = None
    tpot: Quantiles | None = None


class Room(Frozen, frozen=True):
    """What the cloud's rate-limit headers say is left: shares 0..1 of the limit, and when each is whole again."""

    requests_left: float = 1.0
    requests_reset: float = 0.0
    tokens_left: float = 1.0
    tokens_reset: float = 0.0


class Spent(Frozen, frozen=True):
    """Nano-dollars spent at an account or a deployment in the current UTC day, month, and since the process began."""

    day: int = 0
    month: int = 0
    total: int = 0


class Candidate(Frozen, frozen=True, kw_only=True):
    """A deployment with what is known of it now.

    `price` is the real price in force (own GPUs: fully loaded, by utilisation), None where unknown; `marginal` is what
    one more call adds. `error_rate` is a decaying share 0..1 over the last half minute with weight `recent` attempts;
    `failures` counts failures in a row, the first at `failing_since` (0.0 where not told), the last at `failed_at`.
    Until `cooling_until` the cloud asked to be left alone, `cooling_why` says how. `queue` and `kv_used` are the
    server's own (vLLM), None where it does not tell.
    """

    deployment: Deployment
    price: Price | None = None
    marginal: Price | None = None
    in_flight: int = 0
    plain: Speed = Speed()
    stream: Speed = Speed()
    error_rate: float = 0.0
    recent: float = 0.0
    failures: int = 0
    failing_since: float = 0.0
    failed_at: float = 0.0
    cooling_until: float = 0.0
    cooling_why: str = ""
    room: Room = Room()
    queue: int | None = None
    kv_used: float | None = None
    spent_account: Spent = Spent()
    spent: Spent = Spent()

    @property
    def name(self) -> str:
        return self.deployment.name

    def speed(self, stream: bool) -> Speed:
        return self.stream if stream else self.plain


class Selection(Frozen, frozen=True):
    """What a policy answers: who is left and in which order, why the others are not, and a remark for the decision."""

    kept: Sequence[Candidate]
    removed: Mapping[str, str] = {}
    note: str = ""


class Policy(Protocol):
    """The first verb. A policy is pure: no I/O, no clock and no chance of its own (`now` and `dice` are given).

    It keeps a subset of the candidates, in an order of its choosing, never invents one, and gives for each one it
    removes a reason of a few words. Its public fields are its options in the config; what they name of the config
    stands in `named` too, such as {"account": ["own"]}, so that a misspelt name is refused."""

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection: ...


class Usage(Frozen, frozen=True):
    """Tokens of one attempt; `estimated` when the cloud sent no usage. Characters where the cloud bills those."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    estimated: bool = False
    prompt_characters: int | None = None
    output_characters: int | None = None


class Observed(NamedTuple):
    """What a server tells of its state, in an answer's headers or when polled; None where it tells nothing."""

    room: Room | None = None
    queue: int | None = None
    kv_used: float | None = None


class Reply(Protocol):
    """An upstream's answer in OpenAI form, and the lease it must give back.

    `status` is the upstream's. `headers` have lower-case names. For a plain answer `read` gives the whole body; for a
    stream `chunk` gives bytes of server-sent events as they come, b"" at the end. Both raise errors.UpstreamError.
    `close` is idempotent, may be called at any point, never waits, and gives the connection back or closes it.
    `degraded` names what this cloud could not do as asked: a parameter or feature to `emulated`, `dropped`, `clamped`.
    `alive` says that what came last was data, not a comment: the idle limit counts from now.
    """

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def degraded(self) -> Mapping[str, str]: ...

    async def read(self) -> bytes: ...

    async def chunk(self) -> bytes: ...

    def alive(self) -> None: ...

    def close(self) -> None: ...


class Provider(Protocol):
    """The second verb: one wire dialect of one account.

    `secrets` are to be struck out of anything that is shown. `poll` asks the server for its state every `poll_every_s`
    seconds (0: never) and raises UpstreamError when it does not tell."""

    @property
    def secrets(self) -> Sequence[str]: ...

    async def start(self) -> None: ...

    async def send(self, call: Call, deployment: Deployment) -> Reply: ...

    def observe(self, reply: Reply, now: float) -> Observed: ...

    @property
    def poll_every_s(self) -> float: ...

    async def poll(self) -> Observed: ...

    async def aclose(self) -> None: ...
