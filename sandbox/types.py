"""The nouns of the sandbox: what a server was asked and what it will answer; no behaviour lives here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

Json = Any  # a decoded JSON value: clients may send whatever they like


class Request(msgspec.Struct, kw_only=True):
    """One whole HTTP request; header names are in lower case, `path` is as it came, without the query."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


EventKind = Literal["start", "text", "finish", "usage", "done"]


class Event(NamedTuple):
    """One event of a stream as framed bytes, with the true number of answer tokens in it."""

    frame: bytes
    tokens: int = 0
    kind: EventKind = "text"


class Reply(msgspec.Struct, kw_only=True):
    """What a cloud answers: a body, or the events of a stream (`body` is then not used).

    `tokens` is the true number of answer tokens in the whole of it; `answer` says that it is an answer, not an error or
    a list; `lanes` is how many choices grow at the same time, `finishes` are their finish reasons, `choices` are the
    answers.Choice that it was made from."""

    status: int = 200
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    events: Iterator[Event] | None = None
    model: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    lanes: int = 1
    answer: bool = False
    finishes: tuple[str, ...] = ()
    choices: Sequence[msgspec.Struct] = ()


class Refusal(Exception):
    """A cloud says no, with its own body and headers."""

    def __init__(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}")
        self.status, self.body, self.headers = status, body, dict(headers or {})


class Model(NamedTuple):
    """One model id of a cloud. `vector` is the length of an embedding, 0 for a model that talks; `calls`: tools."""

    context_tokens: int = 131_072
    max_output_tokens: int = 131_072
    vision: bool = False
    vector: int = 0
    calls: bool = True


class Voice(Protocol):
    """How a cloud words its errors."""

    def failure(self, status: int) -> Refusal:
        """The cloud's own error answer of that status."""

    def error_frames(self, body: Json, done: bool | None) -> list[bytes]:
        """The events by which the cloud tells of an error in a stream; `done` overrides whether [DONE] follows."""
