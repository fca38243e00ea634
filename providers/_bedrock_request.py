"""An OpenAI chat request as a Converse request: every parameter by a table, messages turn by turn. Pure.

Rule 1. JSON that is not ours to read (a tool's schema, a call's arguments, a number) stays the bytes it came in.
Rule 2. A parameter that changes the answer is mapped, or refused, or dropped where the route says so; never forgotten.
Rule 3. Converse wants turns to alternate and no blank text: neighbours of one role become one turn, blanks vanish.

Source: botocore 1.44.5, service model bedrock-runtime, Converse."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from gateway.sse import ABSENT, NOTHING
from gateway.types import Deployment, Missing
from providers._bedrock_messages import Conversation, conversation, set_apart, tell_calls
from providers._emulation import Fields, Word, refusal

Handling = Literal["mapped", "feature", "ignored", "lossy", "refused"]

PARAMETERS: Mapping[str, Handling] = {
    "audio": "refused",
    "frequency_penalty": "feature",
    "function_call": "refused",
    "functions": "refused",
    "logit_bias": "feature",
    "logprobs": "feature",
    "max_completion_tokens": "mapped",
    "max_tokens": "mapped",
    "messages": "mapped",
    "metadata": "ignored",
    "modalities": "mapped",
    "model": "mapped",
    "moderation": "lossy",
    "n": "feature",
    "parallel_tool_calls": "feature",
    "prediction": "ignored",
    "presence_penalty": "feature",
    "prompt_cache_key": "ignored",
    "prompt_cache_options": "ignored",
    "prompt_cache_retention": "ignored",
    "reasoning_effort": "lossy",
    "response_format": "mapped",
    "safety_identifier": "ignored",
    "seed": "feature",
    "service_tier": "mapped",
    "stop": "mapped",
    "store": "ignored",
    "stream": "mapped",
    "stream_options": "mapped",
    "temperature": "mapped",
    "tool_choice": "mapped",
    "tools": "mapped",
    "top_logprobs": "feature",
    "top_p": "mapped",
    "user": "ignored",
    "verbosity": "lossy",
    "web_search_options": "refused",
}
"""Every parameter of OpenAI's chat. `feature`: Converse has none such, so the plan of _emulation.py has seen to it.
`ignored`: it does not change the answer; said as dropped. `lossy`: refused, or dropped where the route is lossy; so is
what is not here."""

OFFERS = frozenset({"chat", "stream", "tools", "tool_choice", "stream_tools", "json_schema", "stop", "vision"})
"""What Converse can carry at all; which weights can do what is the catalogue's matter."""

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch
_ANY_OBJECT = msgspec.Raw(b'{"type":"object","properties":{}}')
_encode = msgspec.json.Encoder().encode


class _FunctionSpec(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class _Tool(msgspec.Struct):
    function: _FunctionSpec | None = None
    type: str = "function"


class _Named(msgspec.Struct):
    name: str


class _Choice(msgspec.Struct):
    function: _Named
    type: Literal["function"] = "function"


class _JsonSchema(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = ABSENT


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


_TIERS = {"auto": None, "default": None, "flex": "flex", "priority": "priority"}
"""OpenAI's service tiers as Bedrock's; None: what is had without a word."""


def converse(fields: Fields, at: Deployment, degraded: dict[str, Word]) -> dict[str, Any]:
    """The Converse request, without guardrails. Raises UpstreamError 400, the caller's; adds to `degraded`."""
    _check_names(fields, at.missing, degraded)
    model = at.adapter or at.model
    talk = conversation(fields["messages"])
    tools = _tools(fields, talk, degraded)
    if set_apart(talk, model):
        degraded["messages"] = "emulated"
    request: dict[str, Any] = {"messages": talk.turns}
    if talk.system:
        request["system"] = talk.system
    if sampling := _sampling(fields, at.max_output_tokens, degraded):
        request["inferenceConfig"] = sampling
    if tools:
        request["toolConfig"] = tools
    if form := _output(fields):
        request["outputConfig"] = form
    if tier := _tier(fields, model, degraded):
        request["serviceTier"] = {"type": tier}
    return request


def _tier(fields: Fields, model: str, degraded: dict[str, Word]) -> str | None:
    """Bedrock's tier, None for the usual one. No Llama is on AWS's list of those that have others: docs.aws
    service-tiers-inference, 2026."""
    said = _read(fields, "service_tier", str, "a string")
    tier = _TIERS.get(said)
    if said is not None and (said not in _TIERS or (tier and "meta.llama" in model)):
        degraded["service_tier"], tier = "dropped", None
    return tier


def _check_names(fields: Fields, missing: Missing, degraded: dict[str, Word]) -> None:
    """Refuses parameters that Converse knows nothing of, or says that they are dropped."""
    for name, raw in fields.items():
        handling = PARAMETERS.get(name, "lossy")
        if handling == "ignored":
            degraded[name] = "dropped"
        elif handling == "refused" or (name == "modalities" and b'"audio"' in raw):
            raise refusal(f"'{name}' is not offered by Bedrock's Converse", name)
        elif handling == "lossy" and missing != "lossy":
            raise refusal(f"'{name[:64]}' is not known to Bedrock's Converse", name[:64], "unknown_parameter")
        elif handling == "lossy":
            degraded[name[:64]] = "dropped"


def _read(fields: Fields, name: str, kind: Any, wanted: str) -> Any:
    """A field of a type, None where it is not said."""
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise refusal(f"'{name}' must be {wanted}", name, "invalid_request") from error


def _sampling(fields: Fields, most_tokens: int | None, degraded: dict[str, Word]) -> dict[str, Any]:
    """inferenceConfig. Numbers stay as they were written; a temperature above Converse's 1.0 is 1.0, an output limit
    beyond the weights' is theirs, and both are said."""
    found: dict[str, Any] = {}
    name = next((name for name in ("max_completion_tokens", "max_tokens") if name in fields), None)
    if name is not None:
        found["maxTokens"] = msgspec.Raw(fields[name])
        if most_tokens is not None and _read(fields, name, int, "a whole number") > most_tokens:
            found["maxTokens"], degraded[name] = most_tokens, "clamped"
    temperature = _read(fields, "temperature", float, "a number")
    if temperature is not None:
        found["temperature"] = msgspec.Raw(fields["temperature"])
        if temperature > 1:
            found["temperature"], degraded["temperature"] = 1.0, "clamped"
    if _read(fields, "top_p", float, "a number") is not None:
        found["topP"] = msgspec.Raw(fields["top_p"])
    stop = _read(fields, "stop", str | list[str], "a string or a list of strings")
    if stops := [text for text in ([stop] if isinstance(stop, str) else stop or ()) if text]:
        found["stopSequences"] = stops
    return found


def _tools(fields: Fields, talk: Conversation, degraded: dict[str, Word]) -> dict[str, Any] | None:
    """toolConfig, None where nothing may be called. Converse wants one wherever a turn holds a call or a result, and
    with one the model may call: without it past calls and results are told in words."""
    wanted = "a list of functions in OpenAI's form"
    tools: list[_Tool] = _read(fields, "tools", list[_Tool], wanted) or []
    choice = _read(fields, "tool_choice", Literal["none", "auto", "required"] | _Choice, "none, auto, required or one")
    if choice == "none" or not tools:
        if talk.called:
            tell_calls(talk)
            degraded["tool_choice" if tools else "tools"] = "emulated"
        return None
    functions = [_function(tool) for tool in tools]
    specs = [_spec(function, degraded) for function in functions]
    known = {function.name for function in functions}
    specs += [_spec(_FunctionSpec(name), degraded) for name in talk.called if name not in known]
    config: dict[str, Any] = {"tools": [{"toolSpec": spec} for spec in specs]}
    if choice == "required":
        config["toolChoice"] = {"any": {}}
    elif isinstance(choice, _Choice):
        config["toolChoice"] = {"tool": {"name": _checked(choice.function.name)}}
    return config


def _function(tool: _Tool) -> _FunctionSpec:
    if tool.type != "function":
        raise refusal(f"a tool of type '{tool.type[:32]}' is not offered by Bedrock's Converse", "tools")
    if tool.function is None:
        raise refusal("a tool of type 'function' lacks its 'function'", "tools", "invalid_request")
    return tool.function


def _spec(function: _FunctionSpec, degraded: dict[str, Word]) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": _checked(function.name)}
    if function.description and function.description.strip():
        spec["description"] = function.description
    spec["inputSchema"] = {"json": _ANY_OBJECT if bytes(function.parameters) in NOTHING else function.parameters}
    if function.strict:
        degraded["strict"] = "dropped"
    return spec


def _checked(name: str) -> str:
    if not _TOOL_NAME(name):
        raise refusal(
            f"the tool name '{name[:80]}' must be 1 to 64 letters, digits, _ or -", "tools", "invalid_request"
        )
    return name


def _output(fields: Fields) -> dict[str, Any] | None:
    """outputConfig for a JSON schema, for the weights that take one."""
    wanted: _ResponseFormat | None = _read(fields, "response_format", _ResponseFormat, "an object with a type")
    if wanted is None or wanted.type == "text" or wanted.type == "json_object":
        return None
    said = wanted.json_schema
    if wanted.type != "json_schema" or said is None or bytes(said.schema) in NOTHING:
        raise refusal("'response_format' is not in OpenAI's form", "response_format", "invalid_request")
    named = {name: text for name, text in (("name", said.name), ("description", said.description)) if text}
    schema = {"schema": bytes(said.schema).decode(), **named}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def encoded(request: Mapping[str, Any]) -> bytes:
    """The request's body."""
    return _encode(request)
