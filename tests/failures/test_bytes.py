"""B16 at every cloud: texts cut anywhere within a sign, bytes that are no UTF-8, halves of surrogate pairs."""

from typing import Any

import pytest

from sandbox.cloud import clouds
from sandbox.run import Sandbox
from tests.harness import Answer, Served, ask, chat, serving

TRANSLATED = ("bedrock", "oci")
BAD = {"bad_utf8": b"\xff\xfe", "lone_surrogate": rb"\ud800"}


def config(box: Sandbox, name: str) -> dict[str, Any]:
    cloud = box.servers[name].cloud
    deployment = {"account": name, "model": next(iter(cloud.deployments.values()))["model"]}
    route = {"deployments": [deployment], "policies": []}
    return {"providers": {name: cloud.account(box.origins[name])}, "routes": {"r": route}}


async def said(served: Served, stream: bool) -> Answer:
    return await ask(served, chat(stream=stream, max_tokens=80))


def text_of(answer: Answer, stream: bool) -> str:
    assert answer.status == 200
    return "".join(answer.deltas) if stream else answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", clouds())
async def test_b16_a_text_that_comes_byte_by_byte_is_the_same(name: str, stream: bool) -> None:
    async with Sandbox(port=0, clouds=[name]) as box, serving(config(box, name)) as served:
        whole = text_of(await said(served, stream), stream)
        box.set(name, fault={"kind": "slow_bytes"})
        assert text_of(await said(served, stream), stream) == whole
        assert {"🦙", "ñ", "東"} <= set(whole)
        assert "\ufffd" not in whole


@pytest.mark.parametrize("variant", BAD)
@pytest.mark.parametrize("name", clouds())
async def test_b16_a_plain_answer_that_is_no_text_is_a_failure_of_the_cloud(name: str, variant: str) -> None:
    async with Sandbox(port=0, clouds=[name]) as box, serving(config(box, name)) as served:
        box.set(name, fault={"kind": "bad_frame", "variant": variant})
        answer = await said(served, stream=False)
        assert (answer.status, answer.error["code"]) == (502, "upstream_error")


@pytest.mark.parametrize("variant", BAD)
@pytest.mark.parametrize("name", clouds())
async def test_b16_in_a_stream_it_passes_as_it_came_or_is_said_to_be_incomplete(name: str, variant: str) -> None:
    async with Sandbox(port=0, clouds=[name]) as box, serving(config(box, name)) as served:
        box.set(name, fault={"kind": "bad_frame", "variant": variant})
        answer = await said(served, stream=True)
        assert answer.status == 200
        assert "\ufffd".encode() not in answer.body
        if name in TRANSLATED:
            assert (answer.done, BAD[variant] in answer.body) == (False, False)
            assert answer.fault is not None
            assert answer.fault["code"] == "stream_incomplete"
        else:
            assert (answer.done, answer.body.count(BAD[variant])) == (True, 1)
