"""What Bedrock's exceptions mean, before and inside a stream: a table by name, and by the words of two of them. Pure.

Rule 1. The name decides, not the HTTP status: our own credential's faults come as 400 at times.
Rule 2. What is wrong with our config (a model id, a region) is never the caller's fault.

Sources: botocore 1.44.5, service model bedrock-runtime; messages as quoted in n8n-io/n8n#14206,
strands-agents/harness-sdk#1241, anthropics/claude-code#1466, NousResearch/hermes-agent#98726."""

from collections.abc import Mapping

import msgspec

from gateway.errors import Detail, UpstreamError

STATUSES: Mapping[str, int] = {
    "AccessDeniedException": 403,
    "ExpiredTokenException": 403,
    "IncompleteSignatureException": 403,
    "InternalServerException": 500,
    "InvalidSignatureException": 403,
    "MissingAuthenticationTokenException": 403,
    "ModelErrorException": 424,
    "ModelNotReadyException": 503,  # AWS says 429, but no quota is at its end: an imported model is being loaded
    "ModelStreamErrorException": 424,
    "ModelTimeoutException": 408,
    "ResourceNotFoundException": 404,
    "SerializationException": 400,
    "ServiceQuotaExceededException": 429,  # AWS says 400
    "ServiceUnavailableException": 503,
    "ThrottlingException": 429,
    "UnrecognizedClientException": 403,
    "ValidationException": 400,
}
"""The status that each exception stands for in gateway/outcome.py."""

EXPIRED = frozenset({"ExpiredTokenException", "UnrecognizedClientException"})
"""Refusals that another credential may not meet: the one sent has expired or was taken back."""

UNTIMELY = frozenset({"InvalidSignatureException", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch"})
"""Refusals that a wrong clock of ours may have caused: botocore's `_CLOCK_SKEW_CODES` has more of other services."""

OVERFLOW_WORDS = ("input is too long", "maximum context length", "prompt is too long", "context window")
GONE_WORDS = (
    "on-demand throughput",
    "model identifier is invalid",
    "end of its life",
    "marked by provider as legacy",
    "is not supported in this region",
)
PER_DAY = "per day"
DAY_S = 86_400


class _Body(msgspec.Struct, rename={"capital": "Message", "kind": "__type"}):
    message: str | None = None
    capital: str | None = None
    kind: str | None = None


def refused(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """An error answer as an error."""
    said = _decoded(body)
    name = _name(headers.get("x-amzn-errortype") or said.kind or "")
    fault = UpstreamError("status", f"answered {status}", status=STATUSES.get(name, status), headers=headers)
    return _worded(fault, name, said.message or said.capital or "")


def in_stream(name: str, payload: bytes) -> UpstreamError:
    """An exception inside a stream, whose name begins with a small letter there."""
    said = _decoded(payload)
    name = _name(name[:1].upper() + name[1:])
    fault = UpstreamError("error_event", "broke off its stream", status=STATUSES.get(name, 500))
    return _worded(fault, name, said.message or said.capital or "")


def name_of(error: UpstreamError) -> str:
    """The exception's name, as far as it is known."""
    return error.detail.type or ""


def _worded(fault: UpstreamError, name: str, message: str) -> UpstreamError:
    """The error with what its name and its words say beyond the status."""
    words = message.lower()
    code: str | None = None
    if fault.status == 404 or (fault.status in (400, 403) and any(word in words for word in GONE_WORDS)):
        fault.status, code = 404, "model_not_found"
    elif fault.status == 400 and any(word in words for word in OVERFLOW_WORDS):
        code = "context_length_exceeded"
    elif fault.status == 429 and PER_DAY in words:
        fault.headers = {**fault.headers, "retry-after": str(DAY_S)}  # as long as a deployment is ever left alone
        fault.message += " for its daily quota"
    if name in STATUSES:
        fault.message += f" ({name})"
    fault.detail = Detail(message, name or None, None, code)
    return fault


def _name(said: str) -> str:
    """`ThrottlingException:http://internal…` and `com.amazon.coral#ThrottlingException` without what is around it."""
    return said.partition(":")[0].rpartition("#")[2].strip()[:64]


def _decoded(body: bytes) -> _Body:
    try:
        return msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return _Body()
