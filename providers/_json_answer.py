"""JSON where a cloud has no JSON mode: asked for in words, checked by a JSON Schema library, repaired once. Pure.

Rule 1. The answer's text is a piece of what the model wrote, byte for byte: only what stands around the JSON goes.
Rule 2. A schema is the caller's: it fetches nothing, its patterns may go back only so often, and its size is bounded.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jsonschema_rs
import msgspec

from gateway.errors import Detail, UpstreamError
from gateway.sse import ABSENT, NOTHING
from providers._completion import Choice, Completion, fitted

_encode = msgspec.json.Encoder().encode
MOST_SCHEMAS = 20_000
"""Subschemas, with every reference written out. A short schema can stand for a check without end."""
MOST_REASONS = 5
_FENCED = re.compile(r"```(?:json|JSON)?\s*\n(.*?)\n?\s*```", re.DOTALL)


class _JsonSchema(msgspec.Struct):
    schema: msgspec.Raw = ABSENT


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class Broken(NamedTuple):
    """A text that is not what was asked for, and why."""

    text: str
    reasons: Sequence[str]


class Form:
    """What the text of an answer must be: any JSON object, or one that is valid for a schema."""

    def __init__(self, schema: bytes | None) -> None:
        """Raises UpstreamError 400 for a schema that is none."""
        self._schema = schema
        self._validator = None if schema is None else _validator(schema)

    def instructed(self, messages: bytes) -> bytes:
        """The messages with what is asked for in front of them."""
        return _put_before({"role": "system", "content": self._words()}, messages)

    def _words(self) -> str:
        if self._schema is None:
            return "Answer with one JSON object and nothing else: no code fence, no words before or after it."
        return (
            "Answer with one JSON value and nothing else: no code fence, no words before or after it. "
            f"It must be valid for this JSON Schema:\n{self._schema.decode()}"
        )

    def repairing(self, messages: bytes, broken: Broken) -> bytes:
        """The messages with the broken answer and what is wrong with it behind them."""
        wrong = "; ".join(broken.reasons)
        turns = [
            {"role": "assistant", "content": broken.text or "(nothing)"},
            {"role": "user", "content": f"That was not what was asked for: {wrong}. Write it again, only the JSON."},
        ]
        return self.instructed(messages.rstrip()[:-1] + b"," + _encode(turns)[1:])

    def check(self, completion: Completion) -> Broken | None:
        """Reduces each choice's text to its JSON; the first that is broken, if any. A choice that calls tools, or that
        ended for another reason than its own, is left as it is."""
        for choice in completion.choices:
            if choice.finish_reason == "stop" and not choice.message.tool_calls:
                broken = self._check(choice)
                if broken is not None:
                    return broken
        return None

    def _check(self, choice: Choice) -> Broken | None:
        text = choice.message.content or ""
        reasons: Sequence[str] = ("it is not JSON",)
        for piece in _candidates(text):
            try:
                value = msgspec.json.decode(piece)
            except (msgspec.MsgspecError, RecursionError, UnicodeError):
                continue
            reasons = self._reasons(value)
            if not reasons:
                choice.logprobs = fitted(choice.logprobs, text, piece)
                choice.message.content = piece
                return None
        return Broken(text, reasons)

    def _reasons(self, value: Any) -> Sequence[str]:
        if self._validator is None:
            return () if isinstance(value, dict) else ("it is not a JSON object",)
        try:
            errors = zip(range(MOST_REASONS), self._validator.iter_errors(value), strict=False)
            return [f"{'/'.join(map(str, error.instance_path)) or 'it'}: {error.message}"[:300] for _, error in errors]
        except ValueError:  # nested beyond what the library follows
            return ("it is nested too deeply",)


def form(response_format: bytes) -> Form:
    """The form of a `response_format` of type json_object or json_schema. Raises UpstreamError 400."""
    try:
        said = msgspec.json.decode(response_format, type=_ResponseFormat)
    except msgspec.MsgspecError as error:
        raise _bad("'response_format' is not in OpenAI's form") from error
    if said.type == "json_object":
        return Form(None)
    if said.json_schema is None or bytes(said.json_schema.schema) in NOTHING:
        raise _bad("'response_format.json_schema.schema' is missing")
    return Form(bytes(said.json_schema.schema))


def _bad(message: str) -> UpstreamError:
    detail = Detail(f"{message}.", "invalid_request_error", "response_format", "invalid_request")
    return UpstreamError("status", "cannot serve the request as asked", status=400, detail=detail, sent=False)


def _put_before(message: Mapping[str, str], messages: bytes) -> bytes:
    return b"[" + _encode(message) + b"," + messages.lstrip()[1:]


def _candidates(text: str) -> Sequence[str]:
    """Where the JSON may stand: the whole text, a code fence in it, from the first brace to the last."""
    fences = [found.strip() for found in _FENCED.findall(text)]
    start, end = text.find("{"), text.rfind("}")
    braced = [text[start : end + 1]] if 0 <= start < end else []
    return [text.strip(), *fences, *braced]


def _validator(raw: bytes) -> jsonschema_rs.Validator:
    try:
        schema = msgspec.json.decode(raw)
        if _size(schema) > MOST_SCHEMAS:
            raise _bad(f"the schema stands for more than {MOST_SCHEMAS} subschemas")
        return jsonschema_rs.validator_for(schema, offline=True)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _bad("the schema is not JSON, or nested too deeply") from error
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        raise _bad("the schema is not a JSON Schema that can be used here") from error


def _size(schema: Any) -> int:
    """How many subschemas it stands for when every `#/…` reference is written out; a circle counts once."""
    sizes: dict[str, int] = {}

    def measure(node: Any) -> int:
        if isinstance(node, list):
            return sum(map(measure, node))
        if not isinstance(node, dict):
            return 0
        own = 1 + sum(measure(value) for key, value in node.items() if key != "$defs" and key != "definitions")
        target = node.get("$ref")
        return own + (follow(target) if isinstance(target, str) and target.startswith("#") else 0)

    def follow(pointer: str) -> int:
        if pointer not in sizes:
            sizes[pointer] = 0
            sizes[pointer] = measure(_at(schema, pointer))
        return sizes[pointer]

    return measure(schema)


def _at(schema: Any, pointer: str) -> Any:
    for step in pointer.lstrip("#").strip("/").split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and name in schema:
            schema = schema[name]
        elif name:
            return None
    return schema
