"""What a cloud of the sandbox is: the one class that every cloud's file gives, and how the files are found."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import ClassVar

import msgspec

import sandbox
from sandbox.behaviour import Fault
from sandbox.site import Site
from sandbox.types import Json, Model, Refusal, Reply, Request

encode = msgspec.json.encode


class Cloud:
    """One cloud's wire. A file `sandbox/<name>.py` with `CLOUD = <its class>()` is a cloud of the box.

    `demo` are its fixed demo credentials, `account` and `deployments` are how a config of Arriero speaks of it.
    `known_by` is the field of the account by which the cloud knows who calls.
    `early_head` says that headers of a stream come before the first token is there.
    """

    name: ClassVar[str]
    order: ClassVar[int] = 100
    base_path: ClassVar[str] = "/v1"
    keep_alive_s: ClassVar[float] = 60.0
    early_head: ClassVar[bool] = False
    demo: ClassVar[Mapping[str, str]]
    known_by: ClassVar[str] = "api_key"
    models: ClassVar[Mapping[str, Model]]
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {}
    pace: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def url(self, origin: str) -> str:
        """The base URL as a config has it."""
        return origin + self.base_path

    def openai_url(self, origin: str) -> str:
        """The base URL as an OpenAI SDK has it."""
        return self.url(origin)

    def account(self, origin: str) -> dict[str, Json]:
        """The account as a config has it."""
        return {"type": self.name, "url": self.url(origin), **self.demo}

    def stranger(self, origin: str) -> dict[str, Json]:
        """The account with a credential that this cloud does not know."""
        known = self.account(origin)
        value = str(known[self.known_by])
        return {**known, self.known_by: value[:-1] + ("0" if value[-1] != "0" else "1")}

    def answer(self, request: Request, site: Site) -> Reply:
        """The answer; pure but for the counters of the site. Raises Refusal."""
        raise NotImplementedError

    def failure(self, status: int) -> Refusal:
        """The cloud's own words for an error of that status."""
        raise NotImplementedError

    def error_frames(self, body: Json, done: bool | None) -> list[bytes]:
        """The events by which the cloud tells of an error in a stream; `done` overrides whether [DONE] follows."""
        return [b"data: " + encode(body) + b"\n\n", *([b"data: [DONE]\n\n"] if done else [])]

    def spoilt(self, fault: Fault, reply: Reply) -> bool:
        """Changes the reply if this wire has a form of its own for a fault; whether it did."""
        return False

    def credential(self, request: Request, site: Site) -> str:
        """ok, bad or none: what the request's credential is worth here."""
        said = request.headers.get("authorization")
        if said is None:
            return "none"
        return "ok" if said == f"Bearer {self.demo['api_key']}" else "bad"

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        """Headers of every answer, besides content type and length."""
        return []

    def respond(self, request: Request, site: Site) -> Reply:
        """The answer or the refusal, with the cloud's headers."""
        try:
            reply = self.answer(request, site)
        except Refusal as refusal:
            reply = refused(refusal)
        reply.headers = [*self.headers(request, site), *reply.headers]
        return reply


def refused(refusal: Refusal) -> Reply:
    """A refusal as a reply; a body that is a string goes out as text."""
    text = isinstance(refusal.body, str)
    headers = {"content-type": "text/plain; charset=utf-8" if text else "application/json", **refusal.headers}
    body = refusal.body.encode() if text else b"" if refusal.body is None else encode(refusal.body)
    return Reply(status=refusal.status, headers=list(headers.items()), body=body)


def json_reply(value: Json, headers: Mapping[str, str] | None = None) -> Reply:
    """200 with a JSON value that is no answer of a model."""
    return Reply(headers=[("content-type", "application/json"), *(headers or {}).items()], body=encode(value))


def clouds() -> dict[str, Cloud]:
    """Every cloud whose file is here, by name, in the order of their ports."""
    found: list[Cloud] = []
    for info in pkgutil.iter_modules(sandbox.__path__):
        if not info.name.startswith("_"):
            made = getattr(importlib.import_module(f"sandbox.{info.name}"), "CLOUD", None)
            if made is not None:
                found.append(made)
    return {cloud.name: cloud for cloud in sorted(found, key=lambda c: (c.order, c.name))}


def __getattr__(name: str) -> object:
    """`DEMO`: the fixed demo credentials by cloud; made when asked for, since the clouds' files need this one."""
    if name == "DEMO":
        return {cloud.name: cloud.demo for cloud in clouds().values()}
    raise AttributeError(name)


DEMO: Mapping[str, Mapping[str, str]]
