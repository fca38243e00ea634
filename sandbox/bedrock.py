"""AWS Bedrock's runtime: Converse and ConverseStream for Llama, with what it refuses of it and in which words.

Sources: botocore 1.44.5 (service model); refusals n8n-io/n8n#14206 (tools in a stream), strands-agents/harness-sdk#1241
(toolChoice), anthropics/claude-code#1466 (on-demand), patriceckhart/zot#18 (toolConfig), boto/botocore#3525 and
aws-samples/bedrock-engineer#8 (blank text), NousResearch/hermes-agent#98726 (too long a prompt). From memory: the words
about images, guardrails, unknown ARNs and output limits.
"""

import re
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from typing import ClassVar

import msgspec

from sandbox import _bedrock_auth as auth
from sandbox import _bedrock_frames as frames
from sandbox import _bedrock_model as model
from sandbox._bedrock_prompt import Talk, asked, talk_of
from sandbox._bedrock_tokens import tokens
from sandbox.answers import Choice, answer, key_of, tokens_of
from sandbox.behaviour import Fault
from sandbox.cloud import Cloud, encode
from sandbox.http1 import segments
from sandbox.limits import Short
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Reply, Request

_ARN = f"arn:aws:bedrock:{auth.REGION}:{auth.ACCOUNT_ID}"
_OPERATIONS = {"converse": "Converse", "converse-stream": "ConverseStream"}
_ON_DEMAND = frozenset({"meta.llama3-1-8b-instruct-v1:0", "meta.llama3-1-70b-instruct-v1:0"})
_FOUNDATION = re.compile(r"(?:us\.)?(meta\.llama[a-z0-9-]+:0)")
GUARDRAIL = "sandboxguard"
GUARDED_WORD = "contraband"
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
}
_TOO_MANY = "please wait before trying again."
_FAILURES: Mapping[int, tuple[str, str]] = {
    400: ("ValidationException", "The request is not valid."),
    403: ("AccessDeniedException", "You don't have access to the model with the specified model ID."),
    404: ("ResourceNotFoundException", "Could not find the model or inference profile."),
    408: ("ModelTimeoutException", "Model has timed out in processing the request. Try your request again."),
    424: (
        "ModelErrorException",
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
    429: ("ThrottlingException", f"Too many requests, {_TOO_MANY}"),
    500: ("InternalServerException", "The system encountered an unexpected error. Try your request again."),
    503: ("ServiceUnavailableException", "Bedrock is unable to process your request."),
}


class Bedrock(Cloud):
    name: ClassVar[str] = "bedrock"
    order: ClassVar[int] = 8
    base_path: ClassVar[str] = ""
    demo: ClassVar[Mapping[str, str]] = {
        "region": auth.REGION,
        "access_key_id": auth.ACCESS_KEY_ID,
        "secret_access_key": auth.SECRET_ACCESS_KEY,
    }
    known_by: ClassVar[str] = "secret_access_key"
    models: ClassVar[Mapping[str, Model]] = {
        "us.meta.llama3-1-8b-instruct-v1:0": Model(128_000, 4_096),
        "us.meta.llama3-1-70b-instruct-v1:0": Model(128_000, 4_096),
        "us.meta.llama3-1-405b-instruct-v1:0": Model(128_000, 4_096),
        "us.meta.llama3-3-70b-instruct-v1:0": Model(128_000, 4_096),
        "us.meta.llama4-scout-17b-instruct-v1:0": Model(3_500_000, 8_192, vision=True),
        "us.meta.llama4-maverick-17b-instruct-v1:0": Model(1_000_000, 8_192, vision=True),
        f"{_ARN}:imported-model/a1b2c3d4e5f6": Model(128_000, 4_096),
        f"{_ARN}:provisioned-model/f6e5d4c3b2a1": Model(128_000, 4_096),
        f"{_ARN}:application-inference-profile/sandboxprofile": Model(128_000, 4_096),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-8b": {"model": "us.meta.llama3-1-8b-instruct-v1:0", "price": {"in": 0.22, "out": 0.22}},
        "llama-3.1-70b": {"model": "us.meta.llama3-1-70b-instruct-v1:0", "price": {"in": 0.72, "out": 0.72}},
        "llama-3.1-405b": {"model": "us.meta.llama3-1-405b-instruct-v1:0", "price": {"in": 2.4, "out": 2.4}},
        "llama-3.3-70b": {"model": "us.meta.llama3-3-70b-instruct-v1:0", "price": {"in": 0.72, "out": 0.72}},
    }
    pace: ClassVar[tuple[float, float]] = (0.35, 0.012)

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        number = key_of(self.name, site.began_wall, site.next_number())
        id_ = f"{number:016x}"[:8] + "-0000-4000-8000-" + f"{number:016x}"[4:]
        return [("x-amzn-requestid", id_), ("date", formatdate(site.wall(), usegmt=True))]

    def credential(self, request: Request, site: Site) -> str:
        if "authorization" not in request.headers:
            return "none"
        try:
            auth.authorize(request, site)
        except Refusal:
            return "bad"
        return "ok"

    def failure(self, status: int) -> Refusal:
        name, message = _FAILURES.get(status, _FAILURES[500])
        return auth.exception(name, status, message)

    def error_frames(self, body: Json, done: bool | None) -> list[bytes]:
        return [frames.exception_frame(500, body)]

    # ------------------------------------------------------------------ answering
    def answer(self, request: Request, site: Site) -> Reply:
        found = tokens(request, site)
        if found is not None:
            return found
        parts = segments(request.path)
        operation = _OPERATIONS.get(parts[2]) if len(parts) == 3 and parts[0] == "model" else None
        if operation is None or request.method != "POST":
            raise auth.exception("UnknownOperationException", 404, "")
        auth.authorize(request, site)
        body = self._decoded(request.body)
        model.check(operation, body)
        known = self._model(parts[1])
        return self._converse(parts[1], known, body, site, stream=operation == "ConverseStream")

    def _decoded(self, raw: bytes) -> dict[str, Json]:
        try:
            body = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise model.serialization(f"Unexpected token in the request body: {error}") from error
        if not isinstance(body, dict):
            raise model.serialization("Start of structure or map expected")
        return body

    def _model(self, name: str) -> Model:
        """The model behind an id, a profile or an ARN."""
        id_ = name.removeprefix(f"{_ARN}:inference-profile/")
        foundation = _FOUNDATION.fullmatch(id_)
        if id_ in self.models:
            return self.models[id_]
        if foundation and id_ in _ON_DEMAND:
            return self.models[f"us.{id_}"]
        if foundation and f"us.{id_}" in self.models:
            message = (
                f"Invocation of model ID {id_} with on-demand throughput isn't supported. Retry your request with the "
                "ID or ARN of an inference profile that contains this model."
            )
            raise model.validation(message)
        if name.startswith("arn:"):
            raise auth.exception("ResourceNotFoundException", 404, f"Could not find {name}.")
        raise model.validation("The provided model identifier is invalid.")

    def _converse(self, name: str, known: Model, body: dict[str, Json], site: Site, *, stream: bool) -> Reply:
        self._refuse(body, known, stream=stream)
        talk = talk_of(body)
        config = body.get("inferenceConfig") or {}
        limit = self._limit(talk, config.get("maxTokens"), known, site)
        short = site.limiter.take(talk.prompt_tokens + (limit or site.behaviour.default_tokens), site.now())
        if short is not None:
            raise self._limited(short, site)
        choice = self._guarded(body, talk) or answer(asked(body, talk, site.behaviour.default_tokens, limit))[0]
        kind = "application/vnd.amazon.eventstream" if stream else "application/json"
        return Reply(
            headers=[("content-type", kind)],
            body=b"" if stream else encode(_whole(choice, talk, body)),
            events=_events(choice, talk, body) if stream else None,
            model=name,
            prompt_tokens=talk.prompt_tokens,
            tokens=choice.generated,
            choices=[choice],
            answer=True,
        )

    # ------------------------------------------------------------------ refusals
    def _refuse(self, body: dict[str, Json], known: Model, *, stream: bool) -> None:
        """What Bedrock does not do for a Llama."""
        config = body.get("toolConfig")
        if config and stream:
            raise model.validation("This model doesn't support tool use in streaming mode.")
        choice = next(iter((config or {}).get("toolChoice") or {}), "auto")
        if choice != "auto":
            field = f"toolConfig.toolChoice.{choice}"
            raise model.validation(f"This model doesn't support the {field} field. Remove {field} and try again.")
        if body.get("outputConfig"):
            raise model.validation(
                "This model doesn't support the outputConfig field. Remove outputConfig and try again."
            )
        blocks = [block for message in body["messages"] for block in message["content"]]
        if any("image" in block for block in blocks) and not known.vision:
            raise model.validation("This model doesn't support the image field. Remove image and try again.")
        if not config and any("toolUse" in block or "toolResult" in block for block in blocks):
            message = "The toolConfig field must be defined when using toolUse and toolResult content blocks."
            raise model.validation(message)
        guardrail = body.get("guardrailConfig")
        if guardrail and guardrail.get("guardrailIdentifier") != GUARDRAIL:
            message = "The guardrail identifier or version provided in the request does not exist."
            raise model.validation(message)

    def _limit(self, talk: Talk, wanted: int | None, known: Model, site: Site) -> int | None:
        """How long the answer may be; None: as long as it naturally is."""
        context = site.behaviour.context_tokens or known.context_tokens
        if wanted is not None and wanted > known.max_output_tokens:
            limit = known.max_output_tokens
            message = (
                f"The maximum tokens you requested exceeds the model limit of {limit}. Try again with a maximum "
                f"tokens value that is lower than {limit}."
            )
            raise model.validation(message)
        if talk.prompt_tokens > 2 * context:
            raise model.validation("Input is too long for requested model.")
        if talk.prompt_tokens + (wanted or 0) > context:
            message = (
                f"This model's maximum context length is {context} tokens. Please reduce the length of the prompt."
            )
            raise model.validation(message)
        room = min(known.max_output_tokens, context - talk.prompt_tokens)
        if wanted is not None:
            return min(wanted, room)
        return room if site.behaviour.default_tokens > room else None

    def _limited(self, short: Short, site: Site) -> Refusal:
        per_day = site.behaviour.limits.tokens_period_s >= 86_400
        what = "requests" if short.what == "requests" else "tokens per day" if per_day else "tokens"
        return auth.exception("ThrottlingException", 429, f"Too many {what}, {_TOO_MANY}")

    def _guarded(self, body: dict[str, Json], talk: Talk) -> Choice | None:
        """What the guardrail says in the place of an answer."""
        if body.get("guardrailConfig") and any(GUARDED_WORD in text for _, text in talk.turns):
            pieces = tokens_of("Sorry, the model cannot answer this question.")
            return Choice(0, pieces, len(pieces), "guardrail_intervened")
        return None

    def spoilt(self, fault: Fault, reply: Reply) -> bool:
        if reply.events is None:
            return _spoil_whole(fault, reply)
        events = frames.spoilt(reply.events, fault)
        if events is None:
            return False
        reply.events = events
        return True


def _stop_reason(choice: Choice) -> str:
    if choice.calls and choice.finish != "length":
        return "tool_use"
    if choice.stop_hit is not None:
        return "stop_sequence"
    return _STOP_REASONS.get(choice.finish, choice.finish)


def _usage(choice: Choice, talk: Talk) -> dict[str, int]:
    total = talk.prompt_tokens + choice.generated
    return {"inputTokens": talk.prompt_tokens, "outputTokens": choice.generated, "totalTokens": total}


def _closing(choice: Choice, talk: Talk, body: dict[str, Json]) -> dict[str, Json]:
    """What ends a whole answer and a stream alike."""
    found: dict[str, Json] = {"usage": _usage(choice, talk), "metrics": {"latencyMs": 10 * choice.generated}}
    if (body.get("guardrailConfig") or {}).get("trace", "disabled") != "disabled":
        acted = "GUARDRAIL_INTERVENED" if choice.finish == "guardrail_intervened" else "NONE"
        found["trace"] = {"guardrail": {"modelOutput": [], "actionReason": acted}}
    return found


def _whole(choice: Choice, talk: Talk, body: dict[str, Json]) -> dict[str, Json]:
    content: list[Json] = [{"text": choice.text}] if choice.pieces else []
    for call in choice.calls:
        given = msgspec.Raw(call.arguments.encode()) if choice.finish != "length" else {}
        content.append({"toolUse": {"toolUseId": f"tooluse_{call.id}", "name": call.name, "input": given}})
    message = {"role": "assistant", "content": content}
    return {"output": {"message": message}, "stopReason": _stop_reason(choice), **_closing(choice, talk, body)}


def _events(choice: Choice, talk: Talk, body: dict[str, Json]) -> Iterator[Event]:
    yield Event(frames.event("messageStart", {"role": "assistant"}, 0), 0, "start")
    for number, piece in enumerate(choice.pieces, 1):
        delta = {"contentBlockIndex": 0, "delta": {"text": piece}}
        yield Event(frames.event("contentBlockDelta", delta, number), 1, "text")
    yield Event(frames.event("contentBlockStop", {"contentBlockIndex": 0}, 1), 0, "start")
    yield Event(frames.event("messageStop", {"stopReason": _stop_reason(choice)}, 2), 0, "finish")
    yield Event(frames.event("metadata", _closing(choice, talk, body), 3), 0, "usage")


def _spoil_whole(fault: Fault, reply: Reply) -> bool:
    """The faults that change the JSON of a whole answer, in Converse's words."""
    value = msgspec.json.decode(reply.body)
    match fault.kind, fault.variant:
        case "empty", "choices":
            value.pop("output", None)
        case "empty", "content":
            value.get("output", {}).get("message", {})["content"] = []
        case "no_usage", _:
            value.pop("usage", None)
        case "neither", _:
            value.pop("stopReason", None)
        case "drift", "wrong_types":
            value["stopReason"] = 7
        case "drift", "missing_fields":
            value = {name: value[name] for name in ("output", "stopReason") if name in value}
        case "drift", _:
            value = {"laterField": [2**53 + 1], **value}
        case _:
            return False
    reply.body = encode(value)
    return True


CLOUD = Bedrock()
