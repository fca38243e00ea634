"""Reads OpenAI-shaped prompts into one plain form, so that every cloud makes the same answer of the same words."""

import json
from collections.abc import Mapping, Sequence

from sandbox.answers import tokens_of
from sandbox.types import Json

_TOKENS_PER_TURN = 4  # header and end marker of a turn in the Llama template
_TOKENS_TO_BEGIN = 1
_TOKENS_PER_IMAGE = 576
ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}, "number": {"type": "integer"}}}
"""What a model writes that is asked for any JSON object."""

Turn = tuple[str, str]


def text_of(content: Json) -> str:
    """The text of a message's content: a string, or parts of which images stand as a mark with their address."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    return "".join(_part_text(part) for part in content if isinstance(part, Mapping))


def _part_text(part: Mapping[str, Json]) -> str:
    if part.get("type") == "image_url":
        image = part.get("image_url")
        return f"\x00image {image.get('url', '') if isinstance(image, Mapping) else image}\x00"
    return str(part.get("text") or part.get("refusal") or "")


def turns_of(messages: Sequence[Json]) -> list[Turn]:
    """(role, text) of each message; a call of a tool is text too, and `developer` is `system`."""
    out: list[Turn] = []
    for message in messages:
        role = "system" if message.get("role") == "developer" else str(message.get("role"))
        text = text_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            text += f"\n{function.get('name')}({function.get('arguments')})"
        out.append((role, text))
    return out


def form_in_words(turns: Sequence[Turn]) -> Json:
    """The schema of the JSON that a system turn asks for in words, {} for any object, None where none is asked for."""
    said = next((text for role, text in turns if role == "system" and "nothing else" in text), "")
    _, named, schema = said.partition("JSON Schema")
    if named and "{" in schema:
        return json.JSONDecoder().raw_decode(schema[schema.index("{") :])[0]
    return ANY_OBJECT if "JSON object" in said else None


def count_images(messages: Sequence[Json]) -> int:
    """How many image parts the messages hold."""
    contents = (message.get("content") for message in messages)
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return sum(1 for part in parts if isinstance(part, Mapping) and part.get("type") == "image_url")


def prompt_tokens(turns: Sequence[Turn], tools: Sequence[Json] = (), images: int = 0) -> int:
    """True prompt tokens: the words, the template, the tools' own text."""
    words = sum(len(tokens_of(_without_images(text) if images else text)) + _TOKENS_PER_TURN for _, text in turns)
    described = sum(len(tokens_of(str(tool.get("function")))) for tool in tools)
    return _TOKENS_TO_BEGIN + words + described + images * _TOKENS_PER_IMAGE


def _without_images(text: str) -> str:
    return "".join(part for part in text.split("\x00") if not part.startswith("image "))
