"""docs/parameters.md is current, complete, and what the gateway does: each parameter at each cloud in each mode."""

import asyncio
import inspect
import json
from typing import Any

import openai
import pytest
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions
from openai.resources.embeddings import Embeddings

from gateway.types import Endpoint, Missing
from sandbox.run import Sandbox
from tests.contract.rows import MODES, ROWS, Row, clouds_of, config, request, without
from tests.contract.table import PAGE, call, reached, words, written
from tests.harness import Answer, Served, ask, serving

SDK: dict[Endpoint, Any] = {"chat/completions": Chats, "completions": Completions, "embeddings": Embeddings}
NOT_SENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


def test_the_page_is_what_the_adapters_do() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run: make table"


@pytest.mark.parametrize("endpoint", ROWS)
def test_every_parameter_of_the_sdk_is_there(endpoint: Endpoint) -> None:
    wanted = set(inspect.signature(SDK[endpoint].create).parameters) - NOT_SENT
    vendors = {"top_k"} if endpoint == "chat/completions" else set()
    assert {row.name for row in ROWS[endpoint]} - vendors == wanted, f"openai {openai.__version__}"


REFUSED_BY_THE_CLOUD = {
    "`max_tokens`, beyond the model's",
    "`response_format`, json_object",  # some want the word JSON in the messages, too
    "`top_k`, or any vendor's own",
    "`moderation`",  # newer than the box's OpenAI
    "`prompt_cache_options`",
    "`prompt_cache_retention`",
}
"""What reaches a cloud that may still say no in its own words."""


class Bed:
    """A gateway of one mode before every cloud of the box."""

    def __init__(self, box: Sandbox, served: Served, endpoint: Endpoint) -> None:
        self.box, self.served, self.endpoint = box, served, endpoint

    async def asked(self, cloud: str, body: dict[str, Any]) -> tuple[Answer, list[dict[str, Any]]]:
        """The gateway's answer, and what reached the cloud for it."""
        before = len(self.box.calls(cloud))
        said = json.dumps({**body, "model": f"on-{cloud}"}, separators=(",", ":")).encode()
        answer = await ask(self.served, said, f"/v1/{self.endpoint}")
        return answer, self.box.calls(cloud)[before:]

    async def seen(self, cloud: str, row: Row) -> str:
        """The word for what became of a parameter, by the answer and by what reached the cloud."""
        answer, calls = await self.asked(cloud, request(row, self.endpoint))
        if not calls:
            return refused(answer, row, self.endpoint)
        assert answer.status == 200 or row.title in REFUSED_BY_THE_CLOUD, answer.body
        said = answer.headers.get("x-arriero-degraded", "")
        degraded = dict(part.split("=") for part in said.split(",") if part)
        decision = next(d for d in self.served.decisions() if d.id == answer.headers["x-arriero-decision"])
        assert decision.attempts[-1].degraded == degraded
        if row.name in degraded:
            return degraded_as(degraded[row.name], row, answer, calls)
        _, bare = await self.asked(cloud, without(row, self.endpoint))
        return reached(row, wire(calls[0]), wire(bare[0]))


def wire(call: dict[str, Any]) -> bytes:
    """A request as the cloud saw it; a stream may be asked for by the path."""
    streams = call["path"].endswith("converse-stream")
    return str(call["body"]).encode() + (b" streamed" if streams else b"")


def refused(answer: Answer, row: Row, endpoint: Endpoint) -> str:
    """The word, if the answer names the parameter, or the feature that it asks for."""
    assert answer.status == 400
    assert answer.error["code"] in ("unsupported_feature", "unknown_parameter")
    asked = {row.name, *row.beside, *call(request(row, endpoint), endpoint).features}
    assert any(f"'{name}'" in f"'{answer.error['param']}' {answer.error['message']}" for name in asked)
    return "refused"


def degraded_as(word: str, row: Row, answer: Answer, calls: list[dict[str, Any]]) -> str:
    """The word, if what reached the cloud and what came back bear it out."""
    assert answer.status == 200
    bodies = [json.loads(call["body"]) for call in calls]
    if word == "dropped":
        assert all(row.name not in body for body in bodies)
    if (word, row.name) == ("emulated", "n"):
        assert len(calls) == len(answer.json()["choices"]) == row.value
    if (word, row.name) == ("emulated", "stream"):
        assert answer.done
        assert not any(body.get("stream") or call["stream"] for body, call in zip(bodies, calls, strict=True))
    if (word, row.name) == ("emulated", "response_format"):
        assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"]), dict)
        assert "JSON" in calls[0]["body"]
    if row.name == "logprobs" and answer.status == 200:
        assert not answer.json()["choices"][0].get("logprobs")
    return word


@pytest.mark.parametrize("missing", MODES)
@pytest.mark.parametrize("endpoint", ROWS)
async def test_each_parameter_at_each_cloud_is_what_the_page_says(missing: Missing, endpoint: Endpoint) -> None:
    names = clouds_of(endpoint)
    said = words(endpoint)
    async with Sandbox(port=0, clouds=names) as box:
        accounts = {name: box.servers[name].cloud.account(box.servers[name].origin()) for name in names}
        async with serving(config(accounts, missing, endpoint)) as served:
            bed = Bed(box, served, endpoint)

            async def through(name: str) -> list[tuple[str, str, str]]:
                return [(name, row.title, await bed.seen(name, row)) for row in ROWS[endpoint]]

            found = [row for rows in await asyncio.gather(*map(through, names)) for row in rows]
    index = MODES.index(missing)
    wrong = [(*row, said[row[:2]][index]) for row in found if row[2] != said[row[:2]][index]]
    assert not wrong
