"""A chat call in OpenAI's words as Oracle's GENERIC chat request. Pure: bytes in, bytes out.

Rule 1. Values go over as the bytes they came in: numbers, texts and arguments are not decoded and encoded again.
Rule 2. `maxTokens` is always said: without it Oracle stops after about twenty tokens.
Rule 3. What Oracle has no word for is refused where the answer would be another one, else told as dropped.

Source: GenericChatRequest and its parts in oci 2.189.0 (attribute maps, docstrings)."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from gateway.types import Call, Deployment
from providers._emulation import Fields, Word
from providers._oci_messages import ABSENT, NOTHING, Function, Messages, refuse
from providers._oci_schema import SchemaError, plain

DEFAULT_MAX_TOKENS = 4000
"""What Oracle gives on demand at most (oci 2.189.0, max_tokens)."""

_encode = msgspec.json.Encoder().encode


class Translated(NamedTuple):
    """A request body for Oracle. `top_logprobs` is None when no log probabilities were asked for; `characters` counts
    the messages' own text; `degraded` is what could not be said as asked."""

    body: bytes
    degraded: dict[str, Word]
    top_logprobs: int | None
    characters: int


class _Tool(msgspec.Struct):
    type: str
    function: Function | None = None


class _NamedChoice(msgspec.Struct):
    type: str
    function: Function | None = None


class _Schema(msgspec.Struct):
    name: msgspec.Raw = ABSENT
    description: msgspec.Raw = ABSENT
    schema: msgspec.Raw = ABSENT
    strict: bool | None = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _Prediction(msgspec.Struct):
    content: msgspec.Raw


_tools = msgspec.json.Decoder(list[_Tool]).decode
_tool_choice = msgspec.json.Decoder(str | _NamedChoice).decode
_format = msgspec.json.Decoder(_Format).decode
_prediction = msgspec.json.Decoder(_Prediction).decode
_word = msgspec.json.Decoder(str).decode
_count = msgspec.json.Decoder(int).decode


class Place(NamedTuple):
    """Who pays, and the dedicated endpoint that serves every deployment of the account, if there is one."""

    compartment: str
    endpoint: str | None = None

    def serving_mode(self, model: str) -> bytes:
        """A dedicated endpoint where one is named, by the account or as the model itself; else the model on demand."""
        if self.endpoint or model.startswith("ocid1.generativeaiendpoint."):
            return b'{"servingType":"DEDICATED","endpointId":%b}' % _encode(self.endpoint or model)
        return b'{"servingType":"ON_DEMAND","modelId":%b}' % _encode(model)


def translate(fields: Fields, call: Call, deployment: Deployment, place: Place) -> Translated:
    """The request. Raises UpstreamError 400, the caller's, for what cannot be put into Oracle's words."""
    model = deployment.adapter or deployment.model
    writer = _Writer(fields, deployment)
    pieces = [
        b'"messages":' + writer.words.write(fields["messages"]),
        b'"maxTokens":%d' % writer.max_tokens(call),
    ]
    if fields.get("stream") == b"true":
        pieces.append(b'"isStream":true,"streamOptions":{"isIncludeUsage":true}')
    for name, value in fields.items():
        if piece := writer.field(name, value):
            pieces.append(piece)
    body = b'{"compartmentId":%b,"servingMode":%b,"chatRequest":{"apiFormat":"GENERIC",%b}}' % (
        _encode(place.compartment),
        place.serving_mode(model),
        b",".join(pieces),
    )
    return Translated(body, writer.degraded, writer.top_logprobs, writer.words.characters)


_SAME = {
    "temperature": b"temperature",
    "top_p": b"topP",
    "top_k": b"topK",
    "seed": b"seed",
    "n": b"numGenerations",
    "frequency_penalty": b"frequencyPenalty",
    "presence_penalty": b"presencePenalty",
    "logit_bias": b"logitBias",
    "parallel_tool_calls": b"isParallelToolCalls",
    "metadata": b"metadata",
}
"""Fields that only change their name."""
_REFUSED = {
    "functions": "'functions' is not offered by Oracle: use 'tools'",
    "function_call": "'function_call' is not offered by Oracle: use 'tool_choice'",
    "audio": "Audio answers are not offered by Oracle",
    "web_search_options": "Web search is not offered by Oracle for these models",
}
_WORDS: Mapping[str, tuple[bytes, Mapping[str, str]]] = {
    "reasoning_effort": (
        b"reasoningEffort",
        {"none": "NONE", "minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"},
    ),
    "verbosity": (b"verbosity", {"low": "LOW", "medium": "MEDIUM", "high": "HIGH"}),
    "service_tier": (b"serviceTier", {"auto": "AUTO", "default": "DEFAULT", "priority": "PRIORITY"}),
}
"""Fields whose value is one of a few words."""
_CHOICES = {"auto": b'{"type":"AUTO"}', "none": b'{"type":"NONE"}', "required": b'{"type":"REQUIRED"}'}
_FORMATS = {"text": b'{"type":"TEXT"}', "json_object": b'{"type":"JSON_OBJECT"}'}
_NEUTRAL = frozenset({*NOTHING, b"false", b"{}"})
"""Values with which a field asks for nothing."""
_sayable = re.compile(r"[a-z][a-z0-9_]{0,31}").fullmatch
_MOST_TOLD = 8


class _Writer:
    """Writes the parts of one request. Owns what is told of it."""

    def __init__(self, fields: Fields, deployment: Deployment) -> None:
        self.fields, self.deployment = fields, deployment
        self.words = Messages(deployment.adapter or deployment.model)
        self.degraded = self.words.degraded
        self.top_logprobs: int | None = None

    def field(self, name: str, value: bytes) -> bytes:
        """One top-level field, b"" where there is nothing to say."""
        if (same := _SAME.get(name)) is not None:
            return b'"%b":%b' % (same, value)
        if (special := _SPECIAL.get(name)) is not None:
            return special(self, value)
        if name in _WORDS:
            return self._one_word(name, value)
        if name in _ELSEWHERE or value in _NEUTRAL:
            return b""
        if name in _REFUSED:
            refuse(name, _REFUSED[name])
        if name not in _IGNORED and self.deployment.missing != "lossy":
            refuse(name[:64], f"'{name[:64]}' is not offered by Oracle")
        self.drop(name)
        return b""

    def drop(self, name: str) -> None:
        """Told as dropped. The name is the caller's own and goes into a header: what is odd is told without it."""
        name = name if _sayable(name) and len(self.degraded) < _MOST_TOLD else "other"
        self.degraded[name] = "dropped"

    def max_tokens(self, call: Call) -> int:
        """What the caller asked for, up to what the deployment gives; without a word the most that fits."""
        asked, most = call.max_output_tokens, self.deployment.max_output_tokens
        if asked is not None:
            if most is not None and asked > most:
                self.degraded["max_tokens"] = "clamped"
                return most
            return asked
        room = (self.deployment.context_tokens or 1 << 30) - call.prompt_tokens
        return max(1, min(most or DEFAULT_MAX_TOKENS, room))

    # ------------------------------------------------------------------ other fields
    def stop(self, value: bytes) -> bytes:
        return b"" if value == b"[]" else b'"stop":%b' % (b"[%b]" % value if value[:1] == b'"' else value)

    def logprobs(self, value: bytes) -> bytes:
        """Oracle takes a number and gives at least the chosen token's; one is the least that it gives any for."""
        if value == b"false":
            return b""
        top = self.fields.get("top_logprobs", b"")
        try:
            self.top_logprobs = _count(top) if top not in (b"", b"null") else 0
        except msgspec.ValidationError:
            refuse("top_logprobs", "'top_logprobs' must be a whole number")
        return b'"logProbs":%d' % max(1, self.top_logprobs)

    def tools(self, value: bytes) -> bytes:
        try:
            found = _tools(value)
        except msgspec.ValidationError as error:
            refuse("tools", f"A tool is of another shape than Oracle can be told: {error}")
        return b'"tools":[%b]' % b",".join([self._tool(tool) for tool in found]) if found else b""

    def _tool(self, tool: _Tool) -> bytes:
        function = tool.function
        if tool.type != "function" or function is None:
            refuse("tools", f"A tool of type '{tool.type[:32]}' is not offered by Oracle")
        parts = [b'{"type":"FUNCTION","name":%b' % (bytes(function.name) or b"null")]
        if bytes(function.description) not in (b"", b"null"):
            parts.append(b'"description":%b' % bytes(function.description))
        if bytes(function.parameters) not in (b"", b"null"):
            parts.append(b'"parameters":%b' % self._schema("tools", bytes(function.parameters), unions=False))
        if function.strict:
            self.degraded["strict"] = "dropped"  # FunctionDefinition has no such attribute
        return b",".join(parts) + b"}"

    def _schema(self, param: str, raw: bytes, *, unions: bool) -> bytes:
        try:
            found = plain(raw, unions=unions)
        except SchemaError as error:
            refuse(param, f"A schema in '{param}' cannot be sent to Oracle: {error}")
        if found.nullable:
            self.degraded["nullable"] = "dropped"
        return found.schema

    def tool_choice(self, value: bytes) -> bytes:
        try:
            found = _tool_choice(value)
        except msgspec.ValidationError:
            refuse("tool_choice", "'tool_choice' must be auto, none, required or a named function")
        if isinstance(found, str) and found in _CHOICES:
            return b'"toolChoice":%b' % _CHOICES[found]
        if isinstance(found, _NamedChoice) and found.type == "function" and found.function is not None:
            return b'"toolChoice":{"type":"FUNCTION","name":%b}' % (bytes(found.function.name) or b"null")
        refuse("tool_choice", "Oracle takes 'tool_choice' auto, none, required or a named function")

    def response_format(self, value: bytes) -> bytes:
        try:
            found = _format(value)
        except msgspec.ValidationError:
            refuse("response_format", "'response_format' must be an object with a type")
        if found.type in _FORMATS:
            return b'"responseFormat":%b' % _FORMATS[found.type]
        if found.type != "json_schema" or found.json_schema is None:
            refuse("response_format", "Oracle takes 'response_format' text, json_object or json_schema")
        wanted = found.json_schema
        parts = [b'"name":%b' % (bytes(wanted.name) or b"null")]
        if bytes(wanted.description) not in (b"", b"null"):
            parts.append(b'"description":%b' % bytes(wanted.description))
        if bytes(wanted.schema) not in (b"", b"null"):
            parts.append(b'"schema":%b' % self._schema("response_format", bytes(wanted.schema), unions=True))
        if wanted.strict is not None:
            parts.append(b'"isStrict":%b' % (b"true" if wanted.strict else b"false"))
        return b'"responseFormat":{"type":"JSON_SCHEMA","jsonSchema":{%b}}' % b",".join(parts)

    def prediction(self, value: bytes) -> bytes:
        try:
            content = bytes(_prediction(value).content)
        except msgspec.ValidationError:
            refuse("prediction", "'prediction' must be an object with content")
        return b'"prediction":{"type":"CONTENT","content":[%b]}' % self.words.content(content)

    def modalities(self, value: bytes) -> bytes:
        if b'"audio"' in value:
            refuse("modalities", _REFUSED["audio"])
        return b""

    def _one_word(self, name: str, value: bytes) -> bytes:
        ours, known = _WORDS[name]
        try:
            word = known.get(_word(value))
        except msgspec.ValidationError:
            word = None
        if word is None:
            self.drop(name)
            return b""
        return b'"%b":"%b"' % (ours, word.encode())


_SPECIAL: Mapping[str, Callable[[_Writer, bytes], bytes]] = {
    "stop": _Writer.stop,
    "logprobs": _Writer.logprobs,
    "tools": _Writer.tools,
    "tool_choice": _Writer.tool_choice,
    "response_format": _Writer.response_format,
    "prediction": _Writer.prediction,
    "modalities": _Writer.modalities,
}

_IGNORED = frozenset(
    {"user", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
)
_ELSEWHERE = frozenset(
    {"messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "top_logprobs"}
)
PARAMETERS: Mapping[str, str] = {
    **dict.fromkeys((*_SAME, *_SPECIAL, *_WORDS, *_ELSEWHERE), "mapped"),
    **dict.fromkeys(_IGNORED, "ignored"),
    **dict.fromkeys(_REFUSED, "refused"),
    "moderation": "lossy",
}
"""Every parameter of OpenAI's chat. `ignored`: it does not change the answer; said as dropped. `lossy`: refused, or
dropped where the route is lossy; so is what is not here."""
OFFERS = frozenset(
    """chat stream tools tool_choice stream_tools parallel_tools json_object json_schema logprobs n seed stop penalties
    logit_bias vision""".split()  # noqa: SIM905
)
"""What GENERIC chat can carry at all; which weights can do what is the catalogue's matter."""
