"""Every fault before the first content, at the first and at the second cloud: the third one answers, whole and once."""

import asyncio
import itertools
import json

import pytest

from tests.failures.stage import (
    DONE,
    WORDS,
    answering,
    hanging_up,
    refusing,
    resetting,
    silent,
    stage,
    streaming,
    timeouts,
    whole,
)
from tests.harness import STREAM_HEAD, Connection, Script, answer_bytes, chat, chunk, json_answer

BOTH: dict[str, Script] = {
    "500": refusing(500),
    "503": refusing(503),
    "429": refusing(429, retry_after="1"),
    "401": refusing(401),
    "302": refusing(302, b"", location="http://127.0.0.1:1/"),
    "the weights are gone": refusing(404, {"error": {"message": "x", "code": "model_not_found"}}),
    "reset": resetting,
    "closed": hanging_up,
    "silent": silent,
    "a login page": answering(json_answer(b"<html>", 200, {"content-type": "text/html"})),
    "nothing": answering(json_answer(b"")),
    "an error in a 200": answering(json_answer({"error": {"message": "x"}})),
    "bad framing": answering(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"),
    "gzip": answering(json_answer(b"\x1f\x8b\x08\x00\x00", 200, {"content-encoding": "gzip"})),
}
STREAMED: dict[str, Script] = {
    "an error event": streaming(b'data: {"error":{"message":"x"}}\n\n'),
    "only a role": streaming(whole()[0], end="close"),
    "only [DONE]": streaming(DONE),
    "only a comment": streaming(b": x\n\n", end="reset"),
    "half an event": streaming(b'data: {"choices":[{"delta":{"content":"x'),
    "not JSON": streaming(b"data: x\n\n"),
    "bytes that are not UTF-8": streaming(b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'),
    "silence after the head": streaming(end="stall"),
}


def seed_of(request: bytes) -> int:
    return int(json.loads(request.partition(b"\r\n\r\n")[2])["seed"])


class Once(Connection):
    """A connection whose request was read already."""

    first: bytes | None = None

    async def request(self) -> bytes:
        data, self.first = self.first, b""
        return await super().request() if data is None else data


def by_seed(scripts: list[Script]) -> Script:
    """Each request by the script that its seed says; then the connection is closed."""

    async def script(connection: Connection) -> None:
        request = await connection.request()
        once = Once(connection.upstream, connection.reader, connection.writer)
        once.first = request
        await scripts[seed_of(request) % len(scripts)](once)

    return script


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_any_two_faults_in_a_row_are_followed_by_one_whole_answer(stream: bool) -> None:
    faults = {**BOTH, **(STREAMED if stream else {})}
    pairs = list(itertools.product(faults, repeat=2))
    first = by_seed([faults[a] for a, _ in pairs])
    second = by_seed([faults[b] for _, b in pairs])

    async def good(connection: Connection) -> None:
        while await connection.request():
            events = b"".join(map(chunk, [*whole(*WORDS), b""]))
            await connection.send(STREAM_HEAD + events if stream else answer_bytes())

    budget = {"retry_budget": 1.0, "retry_floor_per_s": 1000.0}
    impatient, patient = timeouts(first_byte_s=0.5), timeouts()  # the good cloud may be slow on a busy machine
    async with stage(first, second, good, account=impatient, last=patient, attempts=budget) as on:
        gate = asyncio.Semaphore(40)

        async def one(number: int) -> None:
            async with gate:
                answer = await on.ask(chat(stream=stream, seed=number))
            assert (answer.status, answer.headers["x-arriero-deployment"]) == (200, "c"), pairs[number]
            assert answer.headers["x-arriero-attempts"] == "3"
            if stream:
                assert (answer.deltas, answer.finishes, answer.done) == (WORDS, ["stop"], True), pairs[number]

        await asyncio.gather(*map(one, range(len(pairs))))
        assert on.asked() == [len(pairs)] * 3  # what was amplified, measured where it arrives
