"""Reads Converse's turns into the box's plain form, so that Bedrock makes the same answer of the same words as others.

What Bedrock refuses of a Llama's conversation beyond its service model is refused here, in AWS's words, as quoted in
langchain-ai/langchain-aws#1118 and #192, strands-agents/harness-sdk#1223, epam/ai-dial-adapter-bedrock's tests.
"""

from collections.abc import Sequence

import msgspec

from sandbox._bedrock_model import validation
from sandbox.answers import Ask, key_of
from sandbox.prompt import Turn, form_in_words, prompt_tokens
from sandbox.types import Json


class Talk(msgspec.Struct, kw_only=True):
    """A conversation that was checked."""

    turns: Sequence[Turn]
    tools: Sequence[Json]
    after_tool: bool
    prompt_tokens: int


def talk_of(body: dict[str, Json]) -> Talk:
    """Raises the refusal of turns that do not alternate, are empty or blank."""
    messages = body.get("messages") or []
    _check(messages)
    turns: list[Turn] = [("system", str(block.get("text", ""))) for block in body.get("system") or ()]
    for message in messages:
        turns += _turns(message)
    specs = [tool["toolSpec"] for tool in (body.get("toolConfig") or {}).get("tools", ()) if "toolSpec" in tool]
    tools = [{"function": _function(spec)} for spec in specs]
    images = sum("image" in block for message in messages for block in message["content"])
    return Talk(
        turns=turns,
        tools=tools,
        after_tool=any("toolResult" in block for block in messages[-1]["content"]),
        prompt_tokens=prompt_tokens(turns, tools, images),
    )


def _check(messages: Sequence[Json]) -> None:
    if not messages or messages[0]["role"] != "user":
        said = "A conversation must start with a user message."
        raise validation(f"{said} Try again with a conversation that starts with a user message.")
    for place, message in enumerate(messages):
        if place and message["role"] == messages[place - 1]["role"]:
            said = "A conversation must alternate between user and assistant roles."
            raise validation(
                f"{said} Make sure the conversation alternates between user and assistant roles and try again."
            )
        if not message["content"]:
            where = f"The content field in the Message object at messages.{place} is empty."
            raise validation(f"{where} Add a ContentBlock object to the content field and try again.")
        for at, block in enumerate(message["content"]):
            if "text" in block and not block["text"].strip():
                where = f"The text field in the ContentBlock object at messages.{place}.content.{at} is blank."
                raise validation(f"{where} Add text to the text field, and try again.")
        _check_kinds(message["content"], place)
    _check_results(messages)


def _check_kinds(content: Sequence[Json], place: int) -> None:
    """Words and pictures stand apart from calls and from results."""
    for kind, words in (("toolUse", "tool use"), ("toolResult", "tool result")):
        if any(kind in block for block in content) and not all(kind in block for block in content):
            said = f"Conversation blocks and {words} blocks cannot be provided in the same turn."
            raise validation(f"messages.{place}.content: {said}")


def _check_results(messages: Sequence[Json]) -> None:
    """Every call must have its result in the next turn."""
    for place, message in enumerate(messages[:-1]):
        used = {block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block}
        given = [b["toolResult"]["toolUseId"] for b in messages[place + 1]["content"] if "toolResult" in b]
        if used != set(given) or len(given) != len(used):
            at = place + 1
            raise validation(
                f"The number of toolResult blocks at messages.{at}.content exceeds or lacks the number of toolUse "
                "blocks of previous turn."
            )


def _turns(message: Json) -> list[Turn]:
    """A user's turn may hold several messages of OpenAI's: results of tools each by itself, then what the user says."""
    results = [_result(block["toolResult"]) for block in message["content"] if "toolResult" in block]
    said = "".join(_text(block) for block in message["content"] if "toolResult" not in block)
    return [*(("tool", text) for text in results), *([(message["role"], said)] if said or not results else [])]


def _text(block: Json) -> str:
    if "toolUse" in block:
        use = block["toolUse"]
        return f"\n{use['name']}({msgspec.json.encode(use['input']).decode()})"
    if "image" in block:
        image = block["image"]
        return f"\x00image data:image/{image['format']};base64,{image['source'].get('bytes', '')}\x00"
    return str(block.get("text", ""))


def _result(result: Json) -> str:
    return "".join(str(part.get("text") or part.get("json") or "") for part in result["content"])


def _function(spec: Json) -> dict[str, Json]:
    """A tool as OpenAI writes it."""
    named = {"name": spec["name"]}
    if "description" in spec:
        named["description"] = spec["description"]
    return {**named, "parameters": spec["inputSchema"]["json"]}


def asked(body: dict[str, Json], talk: Talk, natural_length: int, length: int | None) -> Ask:
    """What the answer is made from."""
    stop = (body.get("inferenceConfig") or {}).get("stopSequences") or ()
    return Ask(
        key=key_of(talk.turns, None, [tool["function"] for tool in talk.tools], {}),
        length=length,
        natural_length=natural_length,
        stop=stop,
        tools=talk.tools,
        after_tool=talk.after_tool,
        json_form=form_in_words(talk.turns),
        user_text=next((text for role, text in reversed(talk.turns) if role == "user"), ""),
    )
