"""The suite's stage: every cloud of the box alone on routes of its own, a gateway before them, the SDK before that."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

from sandbox.cloud import Cloud
from sandbox.run import Sandbox
from sandbox.types import Model
from tests.background import background
from tests.conformance import judge
from tests.conformance.conversation import Conversation, Mismatch, Seen, expect

POLICIES = [{"capability": {"missing": "emulate"}}]


def _models(cloud: Cloud) -> Iterator[tuple[str, str]]:
    """(route, model) of a cloud: its first Llama; weights that call tools, see or embed, where it has them."""
    usual = str(next(iter(cloud.deployments.values()))["model"])
    wanted: Mapping[str, Callable[[Model], object]] = {
        "calls": lambda model: model.calls and not model.vector,
        "sees": lambda model: model.vision,
        "vectors": lambda model: model.vector,
    }
    known = {usual: cloud.models[usual], **cloud.models}
    yield "chat", usual
    for use, fits in wanted.items():
        yield use, next((name for name, model in known.items() if fits(model)), usual)
    yield "gone", "meta/no-such-llama"


def _said_to_do(model: Model) -> dict[str, Any]:
    """What an operator says of weights that see or embed: the catalogue is not sure of them everywhere."""
    return {"features": ["embeddings"]} if model.vector else {"features": ["+vision"]} if model.vision else {}


def config(clouds: Mapping[str, tuple[Cloud, str]]) -> dict[str, Any]:
    """A route for each use of each cloud; and one that comes with a credential the cloud does not know."""
    providers: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    for name, (cloud, origin) in clouds.items():
        providers[name], providers[f"{name}-stranger"] = cloud.account(origin), cloud.stranger(origin)
        for use, model in _models(cloud):
            features = _said_to_do(cloud.models[model]) if model in cloud.models else {}
            routes[f"{name}-{use}"] = {"deployments": [{"account": name, "model": model, **features}]}
        usual = routes[f"{name}-chat"]["deployments"][0]["model"]
        routes[f"{name}-stranger"] = {"deployments": [{"account": f"{name}-stranger", "model": usual}]}
    return {"providers": providers, "routes": {name: {**r, "policies": POLICIES} for name, r in routes.items()}}


class Stage:
    """The running whole: `cell` plays one conversation at one cloud in one mode."""

    def __init__(self, box: Sandbox, client: openai.OpenAI) -> None:
        self.box, self.client = box, client

    def cell(self, conversation: Conversation, cloud: str, mode: str) -> str:
        """`pass`, `emulated …`, `clamped …`, `refused`, or `FAILS: ` and why."""
        if conversation.cloud:
            self.box.set(cloud, **conversation.cloud)
        before = self.box.log.total
        try:
            return self._cell(conversation, cloud, mode, before)
        except Mismatch as reason:
            return f"FAILS: {reason}"
        except openai.APIError as error:
            return f"FAILS: {type(error).__name__}: {error.message[:160]}"
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:  # the SDK choked on what it got
            return f"FAILS: {type(error).__name__}: {error}"
        finally:
            if conversation.cloud:
                self.box.set(cloud, **dict.fromkeys(conversation.cloud))

    def _cell(self, conversation: Conversation, cloud: str, mode: str, before: int) -> str:
        try:
            degraded = self._asked(conversation, f"{cloud}-{conversation.route}", mode, before)
        except openai.APIError as error:
            return judge.refusal(error, conversation, self._calls(before))
        expect(conversation.refused is None, "an answer came where an error was to come")
        if not degraded:
            return "pass"
        words = {word: " ".join(name for name, how in degraded.items() if how == word) for word in degraded.values()}
        return ", ".join(f"{word} {names}" for word, names in words.items())

    def _calls(self, before: int) -> Sequence[Mapping[str, Any]]:
        return self.box.calls(after=before)

    def _asked(self, conversation: Conversation, model: str, mode: str, before: int) -> Mapping[str, str]:
        """Asks, judges the answer, and gives what the answer says was not done as asked."""
        fields = {**conversation.fields, "model": model, **({"stream": True} if mode == "stream" else {})}
        if conversation.endpoint == "embeddings":
            raw = self.client.embeddings.with_raw_response.create(**fields)
            texts = fields["input"] if isinstance(fields["input"], list) else [fields["input"]]
            judge.embeddings(raw.parse(), texts)
        elif conversation.endpoint == "completions":
            raw = self.client.completions.with_raw_response.create(**fields)
            judge.completion(_text(raw.parse(), mode), self._calls(before))
        else:
            raw = self.client.chat.completions.with_raw_response.create(**fields)
            answer, chunks = _answer(raw.parse(), mode)
            seen = Seen(fields, answer, chunks, _degraded(raw.headers), self._calls(before))
            expect(answer.model == model, f"the model is called {answer.model}")
            judge.chat(seen)
            conversation.check(seen)
        return _degraded(raw.headers)


def _answer(parsed: Any, mode: str) -> tuple[Any, Any]:
    if mode == "plain":
        return parsed, None
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    chunks = []
    for chunk in parsed:
        chunks.append(chunk)
        state.handle_chunk(chunk)
    expect(chunks, "a stream without events")
    return state.current_completion_snapshot, chunks


def _text(parsed: Any, mode: str) -> tuple[str, str | None]:
    """(text, finish reason) of a completion."""
    choices = [c for part in (parsed if mode == "stream" else [parsed]) for c in part.choices]
    return "".join(choice.text for choice in choices), choices[-1].finish_reason


def _degraded(headers: Mapping[str, str]) -> dict[str, str]:
    said = headers.get("x-arriero-degraded")
    return dict(pair.split("=") for pair in said.split(",")) if said else {}


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """The stage with every cloud of the box, until the block ends."""
    with Sandbox.in_thread(port=0) as box:
        clouds = {name: (server.cloud, server.origin()) for name, server in box.servers.items()}
        with (
            background(config(clouds)) as gateway,
            openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0, timeout=60) as client,
        ):
            yield Stage(box, client)
