"""The messages of a chat in Oracle's words: roles, parts, tool calls and their results. Pure: bytes in, bytes out.

Rule 1. Values go over as the bytes they came in: texts and arguments are not decoded and encoded again.
Rule 2. The text of an assistant's message is kept beside its tool calls; without text `content` is left out, for
        Oracle wants null there and not "" (oci 2.189.0, AssistantMessage).

Source: Message, ChatContent and ToolCall with their subtypes in oci 2.189.0 (attribute maps, docstrings)."""

from typing import NoReturn

import msgspec

from providers._emulation import Word, refusal

ABSENT = msgspec.Raw(b"")
NOTHING = (b"", b"null", b'""', b"[]")
"""Raw values that say nothing."""


class Function(msgspec.Struct):
    """What a tool is, or what of it is called."""

    name: msgspec.Raw = ABSENT
    arguments: msgspec.Raw = ABSENT
    description: msgspec.Raw = ABSENT
    parameters: msgspec.Raw = ABSENT
    strict: bool | None = None


class _ToolCall(msgspec.Struct):
    id: msgspec.Raw = ABSENT
    type: str = "function"
    function: Function | None = None


class _Message(msgspec.Struct):
    role: str
    content: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT


class _Part(msgspec.Struct):
    type: str
    text: msgspec.Raw = ABSENT
    refusal: msgspec.Raw = ABSENT
    image_url: msgspec.Raw = ABSENT


class _Image(msgspec.Struct):
    url: msgspec.Raw
    detail: str | None = None


_messages = msgspec.json.Decoder(list[_Message]).decode
_parts = msgspec.json.Decoder(list[_Part]).decode
_image = msgspec.json.Decoder(_Image).decode
_word = msgspec.json.Decoder(str).decode

_ROLES = {"system": b"SYSTEM", "user": b"USER", "assistant": b"ASSISTANT", "tool": b"TOOL"}


def refuse(param: str, reason: str) -> NoReturn:
    """The caller's fault, in the caller's words, before anything was sent."""
    raise refusal(reason.rstrip("."), param)


def characters(raw: bytes) -> int:
    """How many characters a JSON string has."""
    if b"\\" not in raw and raw.isascii():
        return max(0, len(raw) - 2)
    try:
        return len(_word(raw))
    except msgspec.MsgspecError:  # a lone surrogate: not ours to refuse
        return len(raw) - 2


class Messages:
    """Writes the messages of one call. `degraded` is what could not be said as asked, `characters` counts the text."""

    def __init__(self, model: str) -> None:
        self.degraded: dict[str, Word] = {}
        self.characters = 0
        # Llama's template has no developer; the makers of that role have their models at Oracle too
        self._developer = b"DEVELOPER" if model.startswith("openai.") else b"SYSTEM"

    def write(self, raw: bytes) -> bytes:
        """The list of messages. Raises UpstreamError 400 for what Oracle has no words for."""
        try:
            found = _messages(raw)
        except msgspec.ValidationError as error:
            refuse("messages", f"A message is of another shape than Oracle can be told: {error}")
        return b"[%b]" % b",".join([self._message(message) for message in found])

    def _message(self, message: _Message) -> bytes:
        role = self._developer if message.role == "developer" else _ROLES.get(message.role)
        if role is None:
            refuse("messages", f"The role '{message.role[:32]}' is not offered by Oracle.")
        content = bytes(message.content)
        parts = [b'{"role":"%b"' % role]
        if content not in NOTHING or (content == b'""' and not message.tool_calls):
            parts.append(b'"content":[%b]' % self.content(content))
        if role == b"TOOL":
            parts.append(b'"toolCallId":%b' % (bytes(message.tool_call_id) or b"null"))
        elif bytes(message.name) not in NOTHING:
            parts.append(b'"name":%b' % bytes(message.name))
        if message.tool_calls:
            parts.append(b'"toolCalls":[%b]' % b",".join([self._call(call) for call in message.tool_calls]))
        if bytes(message.refusal) not in NOTHING:
            parts.append(b'"refusal":%b' % bytes(message.refusal))
        return b",".join(parts) + b"}"

    def content(self, raw: bytes) -> bytes:
        """A text or a list of parts in Oracle's words, without brackets."""
        if raw[:1] == b'"':
            self.characters += characters(raw)
            return b'{"type":"TEXT","text":%b}' % raw
        try:
            return b",".join([self._part(part) for part in _parts(raw)])
        except msgspec.ValidationError as error:
            refuse("messages", f"A part of a message is of another shape than Oracle can be told: {error}")

    def _part(self, part: _Part) -> bytes:
        if part.type in ("text", "refusal"):
            text = bytes(part.text if part.type == "text" else part.refusal) or b"null"
            self.characters += characters(text)
            return b'{"type":"TEXT","text":%b}' % text
        if part.type == "image_url":
            raw = bytes(part.image_url)
            image = _Image(part.image_url) if raw[:1] == b'"' else _image(raw or b"null")
            if not bytes(image.url).startswith(b'"data:'):
                refuse(
                    "messages", "Oracle takes pictures as data URLs (data:image/png;base64,…) only: none is fetched."
                )
            if image.detail not in (None, "auto"):
                self.degraded["detail"] = "dropped"  # only AUTO is supported: oci 2.189.0, ImageUrl
            return b'{"type":"IMAGE","imageUrl":{"url":%b}}' % bytes(image.url)
        refuse("messages", f"A part of type '{part.type[:32]}' is not offered by Oracle for chat.")

    def _call(self, call: _ToolCall) -> bytes:
        function = call.function
        if call.type != "function" or function is None:
            refuse("messages", f"A tool call of type '{call.type[:32]}' is not offered by Oracle.")
        arguments = bytes(function.arguments) or b'""'
        self.characters += characters(arguments)
        id_, name = bytes(call.id) or b"null", bytes(function.name) or b"null"
        return b'{"id":%b,"type":"FUNCTION","name":%b,"arguments":%b}' % (id_, name, arguments)
