"""A call that ended as one line of JSON: its row, the rows of its attempts, and its decision. Pure.

Rule 1. A line is `[call, [attempt, …]]`, each a list in the order of CALLS and ATTEMPTS: that is what the journal holds
        and what both databases take apart by themselves.
Rule 2. The row of a call says what its client got and what that cost (`cost_nano`); `spent_nano` is what all of its
        attempts cost, for clouds bill failed ones too.
Rule 3. Nothing of a prompt, an answer or a key is in a row.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from gateway.router import Attempt, Decision
from gateway.types import Call, Candidate, Price, Quantiles, Room, Usage

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
MOST_NANO = 2**63 - 1
"""What a BIGINT holds."""
NOTHING = Usage(0, 0)
CLIENT_GONE = 499

_USED = (
    ("prompt_tokens", "int"),
    ("cached_tokens", "int"),
    ("output_tokens", "int"),
    ("prompt_characters", "int"),
    ("output_characters", "int"),
)
CALLS: tuple[tuple[str, str], ...] = (
    ("id", "text"),
    ("request_id", "text"),
    ("at_ms", "int"),
    ("key_id", "text"),
    ("key_name", "text"),
    ("team", "text"),
    ("route", "text"),
    ("endpoint", "text"),
    ("stream", "int"),
    ("deployment", "text"),
    ("cloud", "text"),
    ("model", "text"),
    *_USED,
    ("cost_nano", "int"),
    ("spent_nano", "int"),
    ("baseline_nano", "int"),
    ("baseline_model", "text"),
    ("estimated", "int"),
    ("attempts", "int"),
    ("ttft_ms", "int"),
    ("total_ms", "int"),
    ("outcome", "text"),
    ("status", "int"),
    ("code", "text"),
    ("labels", "json"),
    ("decision", "json"),
)
ATTEMPTS: tuple[tuple[str, str], ...] = (
    ("call_id", "text"),
    ("n", "int"),
    ("at_ms", "int"),
    ("route", "text"),
    ("deployment", "text"),
    ("cloud", "text"),
    ("model", "text"),
    ("outcome", "text"),
    ("message", "text"),
    ("status", "int"),
    ("delivered", "int"),
    *_USED,
    ("price", "json"),
    ("cost_nano", "int"),
    ("marginal_nano", "int"),
    ("estimated", "int"),
    ("began_ms", "int"),
    ("ttft_ms", "int"),
    ("total_ms", "int"),
    ("degraded", "json"),
)


class Baseline(NamedTuple):
    """The closed model that costs are compared with, at today's price."""

    model: str
    price: Price


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """What was known of a candidate when the call was decided, for `explain`: a list that ends with the last thing that
    is not as usual. `price` is in, out, and for long prompts from how many tokens on, in, out; `ttft` and `tpot` are
    p50, p95, samples and when the last one came; `room` is what was left of requests and of tokens."""

    name: str
    cloud: str
    model: str
    price: tuple[int, ...] | None = None
    in_flight: int = 0
    ttft: tuple[float, float, int, float] | None = None
    tpot: tuple[float, float, int, float] | None = None
    region: str | None = None
    error_rate: float = 0.0
    failures: int = 0
    cooling_until: float = 0.0
    room: tuple[float, float] | None = None
    queue: int | None = None
    kv_used: float | None = None


class Finished(NamedTuple):
    """A call that ended. `delivered` is the attempt whose answer the client got, at least in part."""

    decision: Decision
    delivered: Attempt | None
    status: int
    code: str
    seconds: float


class Lines:
    """Makes the lines of calls, and compares their cost with a baseline's, if there is one.

    Owns what was written down of candidates: what was known of them stays the same object while nothing changes."""

    MOST_VIEWS = 256

    def __init__(self, baseline: Baseline | None = None) -> None:
        self.baseline = baseline
        self._of_plain: dict[int, tuple[Candidate, msgspec.Raw]] = {}
        self._of_streams: dict[int, tuple[Candidate, msgspec.Raw]] = {}

    def line(self, finished: Finished) -> bytes:
        """The line of a call, with its line break."""
        decision, delivered = finished.decision, finished.delivered
        call = self._call(finished)
        attempts = [_attempt(decision, n, tried, tried is delivered) for n, tried in enumerate(decision.attempts, 1)]
        return _encode((call, attempts)) + b"\n"

    def compared_nano(self, call: Call, usage: Usage) -> int | None:
        """What that much costs at the baseline's price, in nano-dollars; None where nothing is compared."""
        if self.baseline is None or call.endpoint == "embeddings":
            return None
        return _money(self.baseline.price.cost(*_tokens(usage)))

    def _call(self, finished: Finished) -> tuple[object, ...]:
        decision = finished.decision
        delivered = charged(decision, finished.delivered, finished.status)
        call, tenant = decision.call, decision.call.tenant
        winner = delivered.candidate.deployment if delivered else None
        usage = delivered.usage or NOTHING if delivered else NOTHING
        compared, spent, estimated = self.compared_nano(call, usage), 0, False
        for attempt in decision.attempts:
            spent += attempt.cost_nano
            estimated |= attempt.cost_estimated
        return (
            decision.id,
            call.id,
            int(decision.wall * 1000),
            tenant.id or tenant.name,
            tenant.name,
            tenant.team or "",
            call.route,
            call.endpoint,
            int(call.stream),
            winner.name if winner else None,
            winner.cloud if winner else None,
            winner.model if winner else None,
            *_used(usage),
            _money(delivered.cost_nano) if delivered else 0,
            _money(spent),
            compared,
            self.baseline.model if self.baseline and compared is not None else None,
            int(estimated),
            len(decision.attempts),
            _ms(delivered.began, delivered.first_byte) if delivered else None,
            round(finished.seconds * 1000),
            outcome(finished.status, finished.code),
            finished.status,
            _plain(finished.code),
            call.labels,
            self._shown(decision),
        )

    def _shown(self, decision: Decision) -> dict[str, object]:
        """What `explain` needs of a decision, and no more: it is kept for every call."""
        call = decision.call
        found: dict[str, object] = {
            "now": decision.now,
            "prompt_tokens": call.prompt_tokens,
            "expected_output_tokens": call.expected_output_tokens,
            "features": list(call.features),
            "policies": decision.policies,
            "order": [candidate.name for candidate in decision.order],
            "candidates": self._seen(decision.candidates, call.stream),
        }
        if call.max_output_tokens is not None:
            found["max_output_tokens"] = call.max_output_tokens
        if decision.removed:
            found["removed"] = decision.removed
        if decision.notes:
            found["notes"] = decision.notes
        return found

    def _seen(self, candidates: Sequence[Candidate], stream: bool) -> list[msgspec.Raw]:
        views = self._of_streams if stream else self._of_plain
        if len(views) > self.MOST_VIEWS:
            views.clear()
        found = []
        for candidate in candidates:
            kept = views.get(id(candidate))  # of an object that cannot go while it is kept
            if kept is None:
                kept = views[id(candidate)] = candidate, msgspec.Raw(_encode(seen(candidate, stream)))
            found.append(kept[1])
        return found


def charged(decision: Decision, delivered: Attempt | None, status: int) -> Attempt | None:
    """The attempt that the client pays for: the one it was answered by, or the last one for it when it left before."""
    if delivered is None and status == CLIENT_GONE and decision.attempts:
        return decision.attempts[-1]
    return delivered


def outcome(status: int, code: str) -> str:
    """How a call ended, in a word: ok, incomplete, client_gone, failed."""
    if status == CLIENT_GONE:
        return "client_gone"
    return "failed" if status != 200 else "incomplete" if code else "ok"


def _attempt(decision: Decision, n: int, attempt: Attempt, delivered: bool) -> tuple[object, ...]:
    candidate, usage = attempt.candidate, attempt.usage or NOTHING
    deployment = candidate.deployment
    began_s = attempt.began - decision.now
    own = candidate.marginal if deployment.gpu_nano_per_s else None
    return (
        decision.id,
        n,
        int((decision.wall + began_s) * 1000),
        decision.call.route,
        deployment.name,
        deployment.cloud,
        deployment.model,
        attempt.outcome,
        _plain(attempt.message),
        attempt.status,
        int(delivered),
        *_used(usage),
        price_row(candidate.price, deployment.per_character, deployment.price_source),
        _money(attempt.cost_nano),
        None if own is None else _money(own.cost(*_tokens(usage))),
        int(attempt.cost_estimated),
        round(began_s * 1000),
        _ms(attempt.began, attempt.first_byte),
        _ms(attempt.began, attempt.ended) or 0,
        attempt.degraded,
    )


def _used(usage: Usage) -> tuple[object, ...]:
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    return usage.prompt_tokens, cached, usage.output_tokens, usage.prompt_characters, usage.output_characters


def _tokens(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.output_tokens, usage.cached_tokens


def _money(nano: int) -> int:
    return nano if nano < MOST_NANO else MOST_NANO


def _ms(began: float, then: float | None) -> int | None:
    return None if then is None else round((then - began) * 1000)


@lru_cache(maxsize=1024)
def price_row(price: Price | None, per_character: Price | None, source: str) -> msgspec.Raw:
    """The price a cost was made by, nano-dollars per one million, and where it is from."""
    found: dict[str, object] = {"source": source}
    for unit, row in (("tokens", price), ("characters", per_character)):
        if row is not None:
            found[unit] = msgspec.to_builtins(row)
    return msgspec.Raw(_encode(found))


def _plain(text: str) -> str:
    """Without what a database or a terminal chokes on."""
    if not text:
        return text
    if text.isascii() and text.isprintable():
        return text[:256]
    return "".join(c if c.isprintable() else "?" for c in text[:256])


ROOMY = Room()


def seen(candidate: Candidate, stream: bool) -> list[object]:
    """A Seen, without what is as usual at its end."""
    deployment, speed, room = candidate.deployment, candidate.speed(stream), candidate.room
    found: list[object] = [
        deployment.name,
        deployment.cloud,
        deployment.model,
        candidate.price and _price(candidate.price),
        candidate.in_flight,
        speed.ttft and _quantiles(speed.ttft),
        speed.tpot and _quantiles(speed.tpot),
        deployment.region,
        candidate.error_rate,
        candidate.failures,
        candidate.cooling_until,
        None if room == ROOMY else (room.requests_left, room.tokens_left),
        candidate.queue,
        candidate.kv_used,
    ]
    while found[-1] is None or found[-1] == 0:
        found.pop()
    return found


def _price(price: Price) -> tuple[int, ...]:
    long = (price.long_tokens, price.long.input, price.long.output) if price.long else ()
    return (price.input, price.output, *long)


def _quantiles(found: Quantiles) -> tuple[float, float, int, float]:
    return found.p50_s, found.p95_s, found.samples, found.updated


# ---------------------------------------------------------------- calls under way when the process died
def intent(decision: Decision) -> bytes:
    """What must be known of a call before it is sent, in as little as possible."""
    call = decision.call
    tenant = call.tenant
    first = decision.order[0] if decision.order else None
    return _encode(
        (
            decision.id,
            call.id,
            int(decision.wall * 1000),
            tenant.id or tenant.name,
            tenant.name,
            tenant.team or "",
            call.route,
            call.endpoint,
            int(call.stream),
            call.prompt_tokens,
            call.expected_output_tokens,
            first and (first.name, first.deployment.cloud, first.deployment.model),
            first and first.price and (first.price.input, first.price.output),
        )
    )


LOST = "lost_in_crash"


def lost(record: bytes) -> bytes:
    """The line of a call that was under way when its gateway died, all of it estimated. b"" for half of it."""
    try:
        id_, request_id, at_ms, key_id, key, team, route, endpoint, stream, prompt, output, first, price = _decode(
            record
        )
    except (msgspec.DecodeError, ValueError, TypeError):
        return b""
    name, cloud, model = first or (None, None, None)
    found = Price(*price) if price else None
    cost = _money(found.cost(prompt, output)) if found else 0
    used = (prompt, 0, output, None, None) if first else (0, 0, 0, None, None)
    who = (id_, request_id, at_ms, key_id, key, team, route, endpoint, stream, name, cloud, model)
    call = (*who, *used, cost, cost, None, None, 1, int(first is not None), None, 0, LOST, 0, "", {}, {})
    row = price_row(found, None, "estimate")
    attempt = (id_, 1, at_ms, route, name, cloud, model, LOST, "", 0, 1, *used, row, cost, None, 1, 0, None, 0, {})
    return _encode((call, [attempt] if first else [])) + b"\n"
