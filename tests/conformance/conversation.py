"""What a conversation of the suite is and what a client saw of it; which there are stands in the files beside."""

import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from openai.types.chat import ChatCompletion, ChatCompletionChunk

Fields = dict[str, Any]


class Mismatch(Exception):
    """What a client saw is not what the cloud sent, or not what was asked for."""


def expect(true: object, otherwise: str) -> None:
    """Raises Mismatch where something does not hold."""
    if not true:
        raise Mismatch(otherwise)


class Seen(NamedTuple):
    """What a client got of a chat, in the SDK's own objects (it also put a stream's chunks together), and the cloud's
    own records of the calls that it took."""

    asked: Fields
    answer: ChatCompletion
    chunks: Sequence[ChatCompletionChunk] | None
    degraded: Mapping[str, str]
    calls: Sequence[Mapping[str, Any]]

    @property
    def text(self) -> str:
        return self.answer.choices[0].message.content or ""

    @property
    def finish(self) -> str:
        return self.answer.choices[0].finish_reason

    @property
    def tool_calls(self) -> list[tuple[str, Any]]:
        """(name, decoded arguments) of the first choice."""
        found = self.answer.choices[0].message.tool_calls or []
        return [(c.function.name, json.loads(c.function.arguments)) for c in found if c.type == "function"]


Check = Callable[[Seen], None]


class Refused(NamedTuple):
    """The error that a client must get: an HTTP status (0: the stream breaks off) and our code ("": the cloud's own, to
    a mistake of the caller's, which some clouds answer with 422). `retry_after` is whether the wait that the cloud
    asked for must be handed on."""

    status: int
    code: str
    retry_after: bool = False


def nothing_more(seen: Seen) -> None:
    """What is judged of every answer is enough."""


class Conversation(NamedTuple):
    """One conversation. `fields` are those of the SDK's call without model and stream; `route` is which of a cloud's
    routes; `cloud` is how the cloud behaves meanwhile; `check` judges beyond what is judged of every answer.
    `refusable` is what a refusal must say where it is about no feature of the catalogue's."""

    name: str
    area: str
    fields: Fields
    check: Check = nothing_more
    route: str = "chat"
    endpoint: str = "chat.completions"
    streams: bool = True
    plain: bool = True
    cloud: Mapping[str, Any] = MappingProxyType({})
    refused: Refused | None = None
    refusable: str = ""

    @property
    def modes(self) -> tuple[str, ...]:
        return ("plain",) * self.plain + ("stream",) * self.streams


def user(content: Any, **more: Any) -> Fields:
    return {"role": "user", "content": content, **more}


def system(text: str) -> Fields:
    return {"role": "system", "content": text}


def assistant(content: Any, **more: Any) -> Fields:
    return {"role": "assistant", "content": content, **more}


def asking(*messages: Fields, **fields: Any) -> Fields:
    """A short call with those messages."""
    return {"messages": list(messages) or [user("Tell me of llamas.")], "max_tokens": 40, **fields}
