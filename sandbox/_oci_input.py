"""What Oracle takes in a chat request: attributes, kinds and enumerations as in its SDK's models, limits as documented.

Rule 1. An attribute that the models do not have, or of another kind, is refused; so is what a limit forbids.

Sources: oci_models.json (made from oci 2.189.0 by tests/oci/sdk_models.py); the limits are in the docstrings of the
same models. That Oracle refuses unknown attributes, and how it words refusals, is not verified; stricter is safer."""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sandbox.types import Json, Refusal

MODELS: Mapping[str, Json] = msgspec.json.decode(Path(__file__).with_name("oci_models.json").read_bytes())
MAX_TOOLS = 128
ON_DEMAND_TOKENS = 4000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LIST = re.compile(r"list\[(.+)\]")
_PLAIN: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "object": (dict,),
}
_REFUSED_IN_SCHEMAS = ("$ref", "$defs", "anyOf")


def invalid(message: str) -> Refusal:
    return Refusal(400, {"code": "InvalidParameter", "message": message})


def check(value: Json, kind: str = "ChatDetails", place: str = "") -> None:
    """Refuses what is not of that kind."""
    if (items := _LIST.fullmatch(kind)) is not None:
        if not isinstance(value, list):
            raise invalid(f"{place} must be a list")
        for number, item in enumerate(value):
            check(item, items[1], f"{place}[{number}]")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise invalid(f"{place} must be of type {kind}")
    elif kind in MODELS:
        _check_model(value, kind, place)


def _check_model(value: Json, kind: str, place: str) -> None:
    if not isinstance(value, dict):
        raise invalid(f"{place or 'the body'} must be an object")
    model = MODELS[kind]
    if "by" in model:
        word = value.get(model["by"])
        if word not in model["kinds"]:
            raise invalid(f"{_at(place, model['by'])} must be one of {', '.join(sorted(model['kinds']))}")
        attributes = {**model["attributes"], **MODELS[model["kinds"][word]]["attributes"]}
    else:
        attributes = model["attributes"]
    for name, told in attributes.items():
        if told.get("required") and value.get(name) is None:
            raise invalid(f"{_at(place, name)} is required")
    for name, inner in value.items():
        if name not in attributes:
            raise invalid(f"{_at(place, name)} is not recognized")
        if inner is None:
            continue
        check(inner, attributes[name]["kind"], _at(place, name))
        values = attributes[name].get("values")
        if values and inner not in values:
            raise invalid(f"{_at(place, name)} must be one of {', '.join(values)}")


def _at(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


_RANGES = {
    "maxTokens": (1, None),
    "numGenerations": (1, None),
    "topK": (-1, None),
    "topP": (0, 1),
    "temperature": (0, 2),
    "frequencyPenalty": (-2, 2),
    "presencePenalty": (-2, 2),
    "logProbs": (0, 20),
}


def check_limits(chat: Mapping[str, Json], *, on_demand: bool) -> None:
    """Refuses what is of the right kind and too much."""
    for name, (low, high) in _RANGES.items():
        value = chat.get(name)
        if value is not None and (value < low or (high is not None and value > high)):
            raise invalid(f"{name} must be {f'between {low} and {high}' if high is not None else f'at least {low}'}")
    if on_demand and (chat.get("maxTokens") or 0) > ON_DEMAND_TOKENS:
        raise invalid(f"maxTokens must be at most {ON_DEMAND_TOKENS} for on-demand inference")
    if not chat.get("messages"):
        raise invalid("messages must not be empty")
    tools = chat.get("tools") or ()
    if len(tools) > MAX_TOOLS:
        raise invalid(f"tools must be at most {MAX_TOOLS}")
    for tool in tools:
        if not _NAME.fullmatch(tool.get("name") or ""):
            raise invalid("the name of a function must be 1 to 64 letters, digits, underscores and dashes")
        if word := _forbidden(tool.get("parameters")):
            raise invalid(f"{word} is not supported in the parameters of a function")
    metadata = chat.get("metadata") or {}
    if len(metadata) > 16 or any(len(name) > 64 or len(str(value)) > 512 for name, value in metadata.items()):
        raise invalid("metadata must be at most 16 pairs of at most 64 and 512 characters")
    _check_turns(chat["messages"])


def _check_turns(messages: list[Json]) -> None:
    for number, message in enumerate(messages):
        content, calls = message.get("content"), message.get("toolCalls")
        if not content and not calls:
            raise invalid(f"messages[{number}].content is required")
        if message["role"] == "TOOL" and not message.get("toolCallId"):
            raise invalid(f"messages[{number}].toolCallId is required")
        for part in content or ():
            if part["type"] == "TEXT" and part.get("text") is None:
                raise invalid(f"messages[{number}].content.text is required")
            if part["type"] == "IMAGE":
                _check_image(part, number)
        for call in calls or ():
            if not isinstance(call.get("name"), str) or not isinstance(call.get("arguments"), str):
                raise invalid(f"messages[{number}].toolCalls needs name and arguments")


def _check_image(part: Json, number: int) -> None:
    image = part.get("imageUrl")
    if image is None or not image["url"].startswith("data:image/"):
        raise invalid(f"messages[{number}].content.imageUrl must be a data URI of an image")
    if image.get("detail") not in (None, "AUTO"):
        raise invalid("only AUTO is supported as detail of an image")


def _forbidden(schema: Json) -> str:
    """The first keyword of a schema that Oracle does not take; names of properties are not keywords."""
    if isinstance(schema, list):
        return next((word for item in schema if (word := _forbidden(item))), "")
    if not isinstance(schema, dict):
        return ""
    for name, inner in schema.items():
        if name in _REFUSED_IN_SCHEMAS:
            return str(name)
        if name == "properties" and isinstance(inner, dict):
            inner = list(inner.values())
        if name not in ("enum", "const", "default", "examples") and (word := _forbidden(inner)):
            return word
    return ""
