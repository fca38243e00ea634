"""What a call leaves behind: hardly anything that only the collector could find."""

import gc

import httpx

from tests.harness import Connection, config, json_answer, route, serving, upstream

CALLS = 100
BODY = {
    "id": "c",
    "object": "chat.completion",
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}


async def test_calls_leave_no_circles_to_the_collector() -> None:
    async def script(connection: Connection) -> None:
        while await connection.request():
            await connection.send(json_answer(BODY))

    body = {"model": "r", "messages": [{"role": "user", "content": "x"}]}
    async with (
        upstream(script) as cloud,
        serving(config({"r": route("a")}, a=cloud.url)) as served,
        httpx.AsyncClient() as client,  # one connection for all: what a connection leaves is not a call's
    ):
        await client.post(f"{served.base_url}/chat/completions", json=body)
        gc.collect()
        gc.disable()
        try:
            for _ in range(CALLS):
                assert (await client.post(f"{served.base_url}/chat/completions", json=body)).status_code == 200
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kinds = [type(thing).__name__ for thing in gc.garbage]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        ours = [kind for kind in kinds if kind in ("Cycle", "Exchange", "Call", "Decision", "Opened", "Incoming")]
        assert len(ours) < CALLS // 10, sorted(set(ours))
