"""OpenAI's messages as Converse's turns and system prompt. Pure.

Source: botocore 1.44.5, service model bedrock-runtime; what Bedrock refuses beyond it: boto/botocore#3525 (blank text),
patriceckhart/zot#18 (toolConfig), docs.aws conversation-inference (turns alternate, the user's is first),
langchain-ai/langchain-aws#1118 and strands-agents/harness-sdk#1223 (words beside calls and results)."""

import binascii
import hashlib
import re
from typing import Any, NamedTuple

import msgspec

from gateway.errors import UpstreamError
from providers._emulation import refusal

_TOOL_USE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}").fullmatch
"""As Bedrock has long wanted it; today's model also takes `.` and `:`."""
_DATA_URL = re.compile(r"data:image/([a-z+.-]+);base64,", re.IGNORECASE).match
_FORMATS = {"png": "png", "jpeg": "jpeg", "jpg": "jpeg", "gif": "gif", "webp": "webp"}


class _Function(msgspec.Struct):
    name: str
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function


class _ImageUrl(msgspec.Struct):
    url: str


class _Part(msgspec.Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None


_MIXING = ("anthropic.", "amazon.nova")
"""Weights that take words and calls, or words and results, in one turn. Llama and Mistral refuse such a turn."""

_decode = msgspec.json.Decoder(list[_Message]).decode
_as_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
Block = dict[str, Any]


class Conversation(NamedTuple):
    """Converse's `messages` and `system`, and the names of the tools that were called on the way."""

    turns: list[dict[str, Any]]
    system: list[Block]
    called: list[str]


def conversation(messages: bytes) -> Conversation:
    """Raises UpstreamError 400, the caller's, with the place of what cannot be mapped."""
    try:
        found = _decode(messages)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise _bad(f"'messages' is not in OpenAI's form: {error}") from error
    talk = Conversation([], [], [])
    called: dict[str, None] = {}
    for place, message in enumerate(found):
        _add(talk, message, f"messages[{place}]", called)
    talk.called.extend(called)
    if not talk.turns or talk.turns[0]["role"] != "user":
        raise _unfit("Bedrock's Converse wants a conversation to begin with a message of the user that is not blank")
    return talk


def tell_calls(talk: Conversation) -> None:
    """Puts words in the place of every call and result."""
    names: dict[str, str] = {}
    for turn in talk.turns:
        turn["content"] = [told for block in turn["content"] for told in _told(block, names)]


def _told(block: Block, names: dict[str, str]) -> list[Block]:
    if (use := block.get("toolUse")) is not None:
        names[use["toolUseId"]] = use["name"]
        return [{"text": f"(called {use['name']} with {bytes(use['input']).decode()})"}]
    if (result := block.get("toolResult")) is not None:
        return [{"text": f"(result of {names.get(result['toolUseId'], 'the call')}:)"}, *result["content"]]
    return [block]


def set_apart(talk: Conversation, model: str) -> bool:
    """Puts what stands beside calls and results into the results, for weights that refuse it; whether there was any.

    The assistant's words go before the first result of its calls, what the user adds behind the last one."""
    if any(name in model for name in _MIXING):
        return False
    moved = False
    for place, turn in enumerate(talk.turns):
        results = [block["toolResult"]["content"] for block in turn["content"] if "toolResult" in block]
        if not results:
            continue
        said = _taken(talk.turns[place - 1], "toolUse") if place else []
        added = _taken(turn, "toolResult")
        if said:
            results[0][:0] = [{"text": "(with the call the assistant said:)"}, *said, {"text": "(the result:)"}]
        if added:
            results[-1] += [{"text": "(the user adds:)"}, *added]
        moved = moved or bool(said or added)
    return moved


def _taken(turn: dict[str, Any], kind: str) -> list[Block]:
    """Takes out of a turn that has blocks of that kind all others."""
    kept = [block for block in turn["content"] if kind in block]
    others = [block for block in turn["content"] if kind not in block] if kept else []
    if others:
        turn["content"] = kept
    return others


def _add(talk: Conversation, message: _Message, at: str, called: dict[str, None]) -> None:
    match message.role:
        case "system" | "developer":
            talk.system.extend(_texts(message, at))
        case "user":
            _turn(talk, "user", _blocks(message.content, at))
        case "assistant":
            _turn(talk, "assistant", _texts(message, at) + _calls(message, at, called))
        case "tool":
            _turn(talk, "user", [_result(message, at)])
        case _:
            raise _unfit(f"'{at}.role' must be system, developer, user, assistant or tool for Bedrock's Converse")


def _turn(talk: Conversation, role: str, blocks: list[Block]) -> None:
    """Adds to the last turn if it is of that role already."""
    if not blocks:
        return
    if talk.turns and talk.turns[-1]["role"] == role:
        talk.turns[-1]["content"].extend(blocks)
    else:
        talk.turns.append({"role": role, "content": blocks})


def _texts(message: _Message, at: str) -> list[Block]:
    blocks = _blocks(message.content, at)
    if any("text" not in block for block in blocks):
        raise _bad(f"'{at}.content' may hold only text")
    return blocks or _blocks(message.refusal, at)


def _blocks(content: str | list[_Part] | None, at: str) -> list[Block]:
    if content is None or isinstance(content, str):
        return [{"text": content}] if content and content.strip() else []
    blocks = [_block(part, f"{at}.content[{place}]") for place, part in enumerate(content)]
    return [block for block in blocks if block is not None]


def _block(part: _Part, at: str) -> Block | None:
    match part.type:
        case "text" | "refusal":
            text = part.text if part.type == "text" else part.refusal
            if text is None:
                raise _bad(f"'{at}.{part.type}' is missing")
            return {"text": text} if text.strip() else None
        case "image_url":
            found = part.image_url
            if found is None:
                raise _bad(f"'{at}.image_url' is missing")
            return _image(found if isinstance(found, str) else found.url, at)
        case _:
            raise _unfit(f"'{at}' is of a type that Bedrock's Converse does not take here")


def _image(url: str, at: str) -> Block:
    """A picture out of a data URL. What stands elsewhere is not fetched: that would be a way into the network."""
    head = _DATA_URL(url)
    if head is None:
        what = f"'{at}.image_url' must be a data URL in base64 (data:image/png;base64,…): pictures are not fetched"
        raise _unfit(what)
    form = _FORMATS.get(head[1].lower())
    if form is None:
        raise _unfit(f"'{at}.image_url' must be png, jpeg, gif or webp")
    data = url[head.end() :]
    try:
        size = len(binascii.a2b_base64(data, strict_mode=True))
    except (binascii.Error, ValueError) as error:
        raise _bad(f"'{at}.image_url' holds no valid base64") from error
    if not size:
        raise _bad(f"'{at}.image_url' holds no picture")
    return {"image": {"format": form, "source": {"bytes": data}}}


def _calls(message: _Message, at: str, called: dict[str, None]) -> list[Block]:
    blocks: list[Block] = []
    for place, call in enumerate(message.tool_calls or ()):
        called[call.function.name] = None
        given = (call.function.arguments or "").strip() or "{}"
        try:
            _as_object(given.encode())
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            raise _unfit(f"'{at}.tool_calls[{place}].function.arguments' is not a JSON object as text") from error
        use = {"toolUseId": use_id(call.id), "name": call.function.name, "input": msgspec.Raw(given.encode())}
        blocks.append({"toolUse": use})
    return blocks


def _result(message: _Message, at: str) -> Block:
    if not message.tool_call_id:
        raise _bad(f"'{at}.tool_call_id' is missing")
    content = _blocks(message.content, at)
    return {"toolResult": {"toolUseId": use_id(message.tool_call_id), "content": content}}


def use_id(id_: str) -> str:
    """The id of a call as Converse takes it: itself, or one made from it. A conversation may have begun elsewhere."""
    if _TOOL_USE_ID(id_):
        return id_
    return "call_" + hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _bad(message: str) -> UpstreamError:
    """What no cloud would take."""
    return refusal(message, "messages", "invalid_request")


def _unfit(message: str) -> UpstreamError:
    """What another cloud may take."""
    return refusal(message, "messages")
