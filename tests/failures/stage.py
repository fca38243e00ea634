"""The stage of the failure catalogue: a gateway before scripted clouds, and what holds after every test.

Rule 1. One access line a call, and one kept decision for each call that was decided.
Rule 2. Nothing stays taken: no call, no attempt, no connection.
Rule 3. No bug of ours was logged.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Answer,
    Connection,
    Script,
    Served,
    Upstream,
    answer_bytes,
    ask,
    chat,
    chunk,
    config,
    delta,
    json_answer,
    request,
    route,
    serving,
    upstream,
)

NAMES = "abcdef"


class Stage:
    """A gateway whose route `r` has the deployments a, b, … in this order. `calls` counts what was asked of it."""

    def __init__(self, served: Served, clouds: Sequence[Upstream]) -> None:
        self.served, self.clouds = served, clouds
        self.calls = 0

    def asked(self) -> list[int]:
        """How many requests each cloud read."""
        return [len(cloud.requests) for cloud in self.clouds]

    async def ask(self, body: bytes | None = None, path: str = "/v1/chat/completions", **headers: str) -> Answer:
        """One call on a connection of its own."""
        self.calls += 1
        return await ask(self.served, body, path, **headers)

    async def stream(self, **fields: Any) -> Answer:
        """One streamed chat."""
        return await self.ask(chat(stream=True, **fields))

    def request(self, body: bytes, **headers: str) -> bytes:
        """A request to be sent by a raw caller; counted as a call."""
        self.calls += 1
        return request(body, **headers)

    def facts(self, name: str = "a") -> Any:
        """What the gateway knows of a deployment."""
        return self.served.gateway.fleet.routes["r"].lanes[name].facts

    def client(self, name: str = "a") -> Any:
        """The connections of an account."""
        provider: Any = self.served.gateway.fleet.providers[name]
        return provider.client

    def outcomes(self) -> list[str]:
        """How each attempt of the latest call ended."""
        return [attempt.outcome for attempt in self.served.decisions()[0].attempts]

    async def check(self) -> None:
        """The rules above."""
        await self.served.at_rest()
        records = self.served.log()
        bugs = [f"{record['error']} at {record['at']}" for record in records if record["event"] == "bug"]
        assert not bugs, bugs
        lines = [record for record in records if record["event"] == "call"]
        assert len(lines) == self.calls
        decided = [line["decision"] for line in lines if "decision" in line]
        kept = self.served.decisions()
        assert sorted(decided) == sorted(found.id for found in kept)
        assert all(attempt.outcome for found in kept for attempt in found.attempts), "an attempt was left open"


@contextlib.asynccontextmanager
async def stage(
    *scripts: Script | str,
    account: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    route_fields: dict[str, Any] | None = None,
    more_routes: dict[str, Any] | None = None,
    clock: Callable[[], float] | None = None,
    wall: Callable[[], float] | None = None,
    **sections: Any,
) -> AsyncIterator[Stage]:
    """A gateway before one cloud a script; text in the place of a script is the URL of a cloud that is elsewhere.

    `account` goes into every account of the config, `last` into that of the last cloud, `route_fields` into the route,
    `more_routes` beside it, `sections` beside all."""
    async with contextlib.AsyncExitStack() as stack:
        clouds, urls = [], []
        for script in scripts:
            if isinstance(script, str):
                urls.append(script)
                continue
            cloud = await stack.enter_async_context(upstream(script))
            clouds.append(cloud)
            urls.append(cloud.url)
        patient = {"connect_s": PATIENCE_S, **(account or {}).get("timeouts", {})}  # for a machine that is busy
        fields = {**(account or {}), "timeouts": patient}
        accounts = {name: {"url": url, **fields} for name, url in zip(NAMES, urls, strict=False)}
        accounts[NAMES[len(urls) - 1]] |= last or {}
        routes = {"r": route(*accounts, **(route_fields or {})), **(more_routes or {})}
        document = config(routes, **accounts) | sections
        served = await stack.enter_async_context(serving(document, clock, wall))
        found = Stage(served, clouds)
        yield found
        await found.check()


def timeouts(**seconds: float) -> dict[str, Any]:
    """Fields of an account: its timeouts."""
    return {"timeouts": seconds}


def answering(*answers: bytes) -> Script:
    """Each request on a kept connection gets the next answer; the last one stays."""
    left = itertools.chain(answers or [answer_bytes()], itertools.repeat((answers or [answer_bytes()])[-1]))

    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(next(left))

    return script


def refusing(status: int, body: Any = None, **headers: str) -> Script:
    """An error status with OpenAI's error object; `_` in the name of a header stands for `-`."""
    said = {"error": {"message": f"said {status}.", "type": "t", "param": None, "code": None}} if body is None else body
    return answering(json_answer(said, status, {name.replace("_", "-"): value for name, value in headers.items()}))


async def silent(connection: Connection) -> None:
    """Reads and never answers."""
    await connection.request()
    await connection.closed()


async def hanging_up(connection: Connection) -> None:
    """FIN for an answer."""
    await connection.request()


async def resetting(connection: Connection) -> None:
    """RST for an answer."""
    await connection.request()
    connection.reset()


async def _end(connection: Connection) -> None:
    await connection.send(chunk(b""))


async def _reset(connection: Connection) -> None:
    connection.reset()


async def _close(connection: Connection) -> None:
    connection.close()


async def _stall(connection: Connection) -> None:
    await connection.closed()


ENDS = {"end": _end, "reset": _reset, "close": _close, "stall": _stall}


def streaming(*events: bytes, end: str = "end") -> Script:
    """A stream of server-sent events, each in a chunk of its own; then the last chunk, RST, FIN or silence."""

    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(STREAM_HEAD + b"".join(map(chunk, events)))
            await ENDS[end](connection)

    return script


ROLE = delta("").replace(b'{"content":""}', b'{"role":"assistant","content":""}')
DONE = b"data: [DONE]\n\n"


def usage(prompt: int = 3, output: int = 2) -> bytes:
    """The event that closes a stream whose usage was asked for."""
    tokens = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return delta(None, usage=tokens, choices=[])


def whole(*texts: str) -> list[bytes]:
    """The events of a whole streamed chat."""
    return [ROLE, *map(delta, texts), delta(None, "stop"), DONE]


WORDS = ["one ", "two ", "three"]
GOOD = streaming(*whole(*WORDS))
