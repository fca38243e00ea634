"""What can be asked of a sandbox cloud: its pace, limits, load and fault; the fields of the control port, no effects.

Rule 1. A field or fault that is not known is refused with the nearest thing to a list of what is.
Rule 2. Chance is counted, never drawn: a share of 0.25 is every fourth call.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from sandbox.types import Json


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault of the catalogue. `share` of the calls it may hit, at most `times` of them.

    It is aimed at POST, but for token endpoints; `path` aims it at other paths, by prefix. Which of the rest a kind
    takes is said in KINDS.
    """

    kind: str
    share: float = 1.0
    times: int | None = None
    path: str | None = None
    status: int | None = None
    headers: dict[str, str] | None = None
    body: Json = None
    after_tokens: int | None = None
    after_finish: bool | None = None
    stall_s: float | None = None
    every_s: float | None = None
    variant: str | None = None
    at: str | None = None
    done: bool | None = None
    location: str | None = None
    size_bytes: int | None = None


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rate limits of the account per period, refilled evenly; beyond them the cloud answers 429 in its own words."""

    requests: int = 14_400_000
    requests_period_s: float = 86_400.0
    tokens: int = 300_000_000
    tokens_period_s: float = 60.0


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a vLLM says of its load; None is the truth of the moment."""

    num_requests_running: float | None = None
    num_requests_waiting: float | None = None
    kv_cache_usage_perc: float | None = None


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one model of a cloud does otherwise; None is as the cloud."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    jitter: float | None = None
    fault: Fault | None = None


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a cloud behaves. `jitter` 0.2 makes every wait up to 20 % shorter or longer; `token_ttl_s` is how long the
    tokens live that its token endpoint hands out; `price` is a note."""

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    jitter: float = 0.0
    keep_alive_s: float | None = None
    default_tokens: int = 32
    context_tokens: int | None = None
    token_ttl_s: float = 3599.0
    fault: Fault | None = None
    limits: Limits = Limits()
    load: Load = Load()
    models: dict[str, Pace] = {}
    price: Json = None

    def at(self, model: str) -> tuple[float, float, float]:
        """(ttft_s, tpot_s, jitter) for a model."""
        own = self.models.get(model)
        if own is None:
            return self.ttft_s, self.tpot_s, self.jitter
        return (
            self.ttft_s if own.ttft_s is None else own.ttft_s,
            self.tpot_s if own.tpot_s is None else own.tpot_s,
            self.jitter if own.jitter is None else own.jitter,
        )


COMMON = ("kind", "share", "times", "path")
KINDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "status": ("an error status; 500 unless told", ("status", "headers", "body")),
    "refuse": ("the port is closed: connection refused", ()),
    "blackhole": ("the port neither answers nor refuses a connection", ()),
    "silent": ("takes the request, never answers (or only after stall_s)", ("stall_s",)),
    "headers_then_silence": ("status line and headers, then nothing (or only after stall_s)", ("stall_s",)),
    "reset_before": ("RST instead of an answer; at: request or accept", ("at",)),
    "close_before": ("FIN instead of an answer; at: request or accept", ("at",)),
    "empty": ("200 without an answer; variant: body, choices or content", ("variant",)),
    "reset_after_tokens": ("RST after after_tokens (1 unless told) or after_finish", ("after_tokens", "after_finish")),
    "close_after_tokens": ("FIN in mid answer, after after_tokens or after_finish", ("after_tokens", "after_finish")),
    "stall": ("silence after after_tokens tokens, for ever or for stall_s", ("after_tokens", "stall_s")),
    "comments_only": ("after after_tokens tokens only `: x` every_s", ("after_tokens", "every_s")),
    "error_event": ("an error event, first or after after_tokens; done: whether [DONE] follows",
                    ("after_tokens", "status", "body", "done")),
    "error_body": ("200 with an error object", ("status", "body")),
    "html": ("200 with a web page", ("body",)),
    "bad_json": ("JSON that is cut, or the stream's event after after_tokens", ("after_tokens",)),
    "bad_frame": ("odd or broken event framing; see FRAMES for the variants", ("variant",)),
    "no_usage": ("no usage anywhere", ()),
    "usage_twice": ("the usage event comes twice", ()),
    "bad_chunk": ("a chunk size that is no number, after after_tokens", ("after_tokens",)),
    "short_body": ("fewer bytes than announced, then FIN", ()),
    "long_body": ("more bytes than announced", ()),
    "redirect": ("a redirect to location", ("status", "location")),
    "drift": ("another schema; variant: unknown_fields, wrong_types or missing_fields", ("variant",)),
    "crlf": ("event lines end with CRLF", ()),
    "no_space": ("`data:{` without the space", ()),
    "slow_bytes": ("every byte a write of its own, every_s apart", ("every_s",)),
    "no_done": ("finish_reason, but no [DONE]", ()),
    "neither": ("ends cleanly with neither finish_reason nor [DONE]", ("after_tokens",)),
    "big_event": ("one event (or body) of size_bytes", ("size_bytes",)),
    "gzip": ("compressed though not asked; variant: whole, truncated or bomb", ("variant", "size_bytes")),
}  # fmt: skip
FRAMES = ("cr", "mixed", "multi_line", "bom", "fields", "comments", "no_last_blank", "no_colon", "junk", "bad_utf8",
          "lone_surrogate")  # fmt: skip
BINARY_FRAMES = ("crc", "prelude_crc", "lengths", "cut", "junk", "bad_utf8")
"""The variants of bad_frame for a stream of binary frames; what is not known to a wire is junk there."""
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "empty": ("body", "choices", "content"),
    "bad_frame": (*FRAMES, *(variant for variant in BINARY_FRAMES if variant not in FRAMES)),
    "drift": ("unknown_fields", "wrong_types", "missing_fields"),
    "gzip": ("whole", "truncated", "bomb"),
}
PORT_KINDS = frozenset({"refuse", "blackhole"})


class BehaviourError(ValueError):
    """What was asked for is not a behaviour; the message says what would be."""


def behaviour(fields: Mapping[str, Any]) -> Behaviour:
    """The behaviour of those fields; raises BehaviourError."""
    try:
        out = msgspec.convert(dict(fields), Behaviour)
    except msgspec.ValidationError as error:
        raise BehaviourError(f"{error}; fields are: {', '.join(Behaviour.__struct_fields__)}") from error
    for fault in (out.fault, *(pace.fault for pace in out.models.values())):
        if fault is not None:
            _check(fault)
    if any(pace.fault and pace.fault.kind in PORT_KINDS for pace in out.models.values()):
        raise BehaviourError("refuse and blackhole are faults of a port, not of a model")
    return out


def _check(fault: Fault) -> None:
    if fault.kind not in KINDS:
        raise BehaviourError(f"unknown fault kind {fault.kind!r}; kinds are: {', '.join(KINDS)}")
    allowed = KINDS[fault.kind][1]
    given = [f for f in fault.__struct_fields__ if f not in COMMON and getattr(fault, f) is not None]
    for field in given:
        if field not in allowed:
            raise BehaviourError(f"fault {fault.kind} takes no {field}; it takes: {', '.join((*COMMON, *allowed))}")
    if fault.kind in PORT_KINDS and (fault.share != 1.0 or fault.times is not None or fault.path is not None):
        raise BehaviourError(f"fault {fault.kind} acts on the port: it takes no share, times or path")
    variants = VARIANTS.get(fault.kind, ())
    if fault.variant is not None and fault.variant not in variants:
        raise BehaviourError(f"unknown variant {fault.variant!r} of {fault.kind}; variants are: {', '.join(variants)}")
    if fault.at not in (None, "accept", "request"):
        raise BehaviourError("at is accept or request")
    if not 0.0 <= fault.share <= 1.0:
        raise BehaviourError("share is between 0 and 1")


class Strikes:
    """Which calls a fault hits, by counting."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.hit, self._due = fault, 0, 0.0

    def next(self) -> bool:
        """Whether the next call is hit."""
        if self.fault.times is not None and self.hit >= self.fault.times:
            return False
        self._due += self.fault.share
        if self._due < 1.0 - 1e-9:
            return False
        self._due -= 1.0
        self.hit += 1
        return True
