"""The table of what an upstream's answer means: another try? whose fault? how long to cool? what does the caller get?

Rule 1. The caller's fault is passed on with its status and never tried elsewhere, but for an overflow of the context.
Rule 2. The cloud's fault, our credential's and our quota's are tried elsewhere; the caller never sees a 401 of ours.
Rule 3. What we refused ourselves, before sending, because this one cloud cannot do it, says nothing about the cloud,
        and the next one may.
Rule 4. How long a cloud asked to be left alone is honoured up to MAX_COOL_S, whatever form it was said in.
"""

import email.utils
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from gateway.errors import Detail, FaultKind, ServiceError, UpstreamError
from gateway.types import Frozen

MAX_COOL_S = 300.0

Fault = Literal["caller", "overflow", "unfit", "ours", "cloud", "quota", "credential", "gone"]

UNFIT = frozenset({"unsupported_feature", "unknown_parameter"})
"""The codes of our own refusals that say: not at this deployment."""


class Outcome(Frozen, frozen=True):
    """What one failed attempt means. `cool_s` is the least time to leave the deployment alone when the cloud does not
    say; it doubles with each such failure in a row. `status` and `code` are the caller's if nothing better comes."""

    name: str
    fault: Fault
    status: int = 502
    code: str = "upstream_error"
    cool_s: float = 0.0

    @property
    def retry(self) -> bool:
        return self.fault not in ("caller", "overflow")

    @property
    def counts(self) -> bool:
        """Whether it says something bad about the deployment."""
        return self.fault not in ("caller", "overflow", "unfit", "ours")


def _timeout(name: str) -> Outcome:
    return Outcome(name, "cloud", 504, "upstream_timeout")


_RATE_LIMITED = Outcome("rate_limited", "quota", 429, "upstream_rate_limited", cool_s=1.0)
_AUTH = Outcome("auth", "credential", 502, "upstream_auth", cool_s=30.0)
_BUSY = Outcome("overloaded", "cloud", 503)
_SERVER = Outcome("server_error", "cloud")
_GONE = Outcome("model_gone", "gone", 502, cool_s=60.0)
_UNFIT = Outcome("unfit", "unfit", 400, "unsupported_feature")
_OVERFLOW = Outcome("context_overflow", "overflow", 400, "context_length_exceeded")
_REDIRECT = Outcome("redirect", "cloud")

BY_KIND: Mapping[FaultKind, Outcome] = {
    "refused": Outcome("refused", "cloud"),
    "dns": Outcome("dns", "cloud"),
    "tls": Outcome("tls", "cloud"),
    "proxy": Outcome("proxy", "cloud"),
    "connect_timeout": _timeout("connect_timeout"),
    "pool_timeout": Outcome("pool_timeout", "cloud", 503),
    "no_files": Outcome("no_files", "ours", 503, "overloaded"),
    "first_byte_timeout": _timeout("first_byte_timeout"),
    "idle_timeout": _timeout("idle_timeout"),
    "total_timeout": _timeout("total_timeout"),
    "reset": Outcome("reset", "cloud"),
    "stale": Outcome("stale", "cloud"),
    "closed": Outcome("closed", "cloud"),
    "protocol": Outcome("protocol", "cloud"),
    "too_large": Outcome("too_large", "cloud"),
    "error_body": _SERVER,
    "error_event": _SERVER,
    "empty": Outcome("empty", "cloud"),
    "not_json": Outcome("not_json", "cloud"),
    "shape": Outcome("shape", "cloud"),
}

BY_STATUS: Mapping[int, Outcome] = {
    401: _AUTH,
    402: _AUTH,
    403: _AUTH,
    408: _timeout("timeout"),
    409: Outcome("conflict", "cloud"),
    424: _SERVER,
    425: Outcome("too_early", "cloud"),
    429: _RATE_LIMITED,
    498: Outcome("capacity", "quota", 503, cool_s=1.0),
    503: _BUSY,
    504: _timeout("gateway_timeout"),
    522: _timeout("timeout"),
    524: _timeout("timeout"),
    529: _BUSY,
}

OVERFLOW_WORDS = (
    "context_length_exceeded",
    "maximum context length",
    "input_tokens",
    "context window",
    "max_model_len",
)
_too_much_input = re.compile(r"input of \d+ tokens exceeds").search
"""Databricks, with its own code BAD_REQUEST."""
_gone_code = re.compile(
    r"model_not_found|decommissioned|deploymentnotfound|notfounderror|resource_does_not_exist|unknown_model"
    r"|notauthorizedornotfound"
).search
_GONE_WORDS = (
    r"(?:(?:the|this|api|publisher|provided|requested) )*(?:%s)\b"
    r".{0,200}\b(?:not found|not exist|decommissioned|is retired|identifier is invalid)|unknown model|entity with key"
)
_begins_gone = re.compile(_GONE_WORDS % "model|endpoint|deployment", re.DOTALL).match
_says_gone = re.compile(_GONE_WORDS % "model|endpoint|deployment|function", re.DOTALL).search
"""What clouds write into a 400, 404 or 410 when the weights behind *our* config are gone: never the caller's doing, for
the caller's model name was ours to map. A 400 must begin with it: further on stands what the caller wrote, and whoever
writes "model not found" into a bad request must not take the deployment from everybody.

Sources: Groq (model_decommissioned, model_not_found), vLLM ("The model `x` does not exist"), Azure (DeploymentNotFound,
"Unknown model"), NIM ("Function '…': Not found for account"), Vertex ("Publisher Model `…` not found"), Databricks
(RESOURCE_DOES_NOT_EXIST), Bedrock ("The provided model identifier is invalid"), Oracle (NotAuthorizedOrNotFound,
"Entity with key … not found", "Model … 1.0.0 is retired": oracle/ai-optimizer#263)."""
FILTER_WORDS = ("content_filter", "content management policy")


def judge(error: UpstreamError) -> Outcome:
    """The row for what went wrong."""
    if error.kind in ("status", "error_body", "error_event") and error.status:
        return _by_status(error)
    return BY_KIND.get(error.kind, _SERVER)


def _by_status(error: UpstreamError) -> Outcome:
    status = error.status
    if not error.sent and error.detail.code in UNFIT:
        return _UNFIT
    if status in BY_STATUS:
        return BY_STATUS[status]
    if 300 <= status < 400:
        return _REDIRECT
    if status >= 500 or status < 400:
        return _SERVER
    said = f"{error.detail.code} {error.detail.type} {error.detail.param} {error.detail.message}".lower()
    if any(word in said for word in FILTER_WORDS):
        return Outcome("content_filter", "caller", status, "content_filter")
    if any(word in said for word in OVERFLOW_WORDS) or _too_much_input(said):
        return _OVERFLOW
    if status in (400, 404, 410) and _is_gone(status, error.detail):
        return _GONE
    return Outcome("caller_error", "caller", status, "invalid_request")


def _is_gone(status: int, detail: Detail) -> bool:
    message = detail.message.lower()
    told = _begins_gone(message) if status == 400 else _says_gone(message)
    return told is not None or _gone_code(f"{detail.code} {detail.type}".lower()) is not None


_GO_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def go_duration_s(text: str) -> float | None:
    """Seconds of Go's `2m59.56s` or `430ms`, or of a bare number of seconds; None when it is neither."""
    number = _number(text)
    if number is not None:
        return number
    match = _GO_DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        return None
    hours, minutes, seconds, millis = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and value >= 0 else None


def retry_after_s(headers: Mapping[str, str], wall_now: float) -> float | None:
    """How long a cloud asks to be left alone, at most MAX_COOL_S; None when it says nothing that can be read.

    `retry-after-ms`, `x-ms-retry-after-ms`, `retry-after` in seconds or as an HTTP date; `wall_now` is in seconds since
    the epoch."""
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        millis = _number(headers.get(name, ""))
        if millis is not None:
            return min(millis / 1000, MAX_COOL_S)
    text = headers.get("retry-after", "").strip()
    seconds = _number(text) if text else None
    if seconds is None and text:
        seconds = _http_date_in_s(text, wall_now)
    return None if seconds is None else min(seconds, MAX_COOL_S)


def _http_date_in_s(text: str, wall_now: float) -> float | None:
    try:
        then = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return then - wall_now if then > wall_now else None


def rate_limit_reset_s(headers: Mapping[str, str]) -> float | None:
    """The longest `x-ratelimit-reset-*` among the limits with nothing left; None when none is exhausted or said."""
    waits = [
        go_duration_s(headers.get(f"x-ratelimit-reset-{kind}", ""))
        for kind in ("requests", "tokens")
        if _number(headers.get(f"x-ratelimit-remaining-{kind}", "")) == 0
    ]
    said = [wait for wait in waits if wait is not None]
    return min(max(said), MAX_COOL_S) if said else None


def final_error(failed: Iterable[tuple[str, UpstreamError, Outcome]], retry_after: float | None) -> ServiceError:
    """What the caller gets when every attempt failed: 429 when all were quotas, 504 when all were timeouts, 503 when
    all were overloads, the same kind of answer as the only attempt's otherwise, else 502. Names the deployments."""
    rows = list(failed)
    story = "; ".join(f"{name}: {error.message}" for name, error, _ in rows)
    count = "The only attempt failed" if len(rows) == 1 else f"All {len(rows)} attempts failed"
    answers = {(outcome.status, outcome.code) for _, _, outcome in rows}
    status, code = answers.pop() if len(answers) == 1 else (502, "upstream_error")
    if status < 429 or (status < 500 and status != 429):
        status, code = 502, "upstream_error"
    wait = retry_after if status in (429, 503) else None
    type_ = {429: "rate_limit_error", 504: "timeout_error"}.get(status, "server_error")
    return ServiceError(status, code, f"{count}: {story}.", type_=type_, retry_after_s=wait)
