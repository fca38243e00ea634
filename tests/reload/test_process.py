"""Failure catalogue E6, E7, F4: the real process, told by SIGHUP or by its file that its config is another one."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from tests import process
from tests.harness import (
    PATIENCE_S,
    STREAM_HEAD,
    Answer,
    Caller,
    Connection,
    Upstream,
    answer_bytes,
    chat,
    chunk,
    config,
    delta,
    eventually,
    request,
    route,
    upstream,
)

DONE = b"data: [DONE]\n\n"


class Process:
    """`arriero serve` before two clouds, `a` and `b`, whose streams end when `released` is set; its file `path`."""

    def __init__(self, running: process.Running, path: Path, clouds: tuple[Upstream, Upstream]) -> None:
        self.running, self.path, self.clouds = running, path, clouds
        self.released = asyncio.Event()
        self.port = int(running.url.rpartition(":")[2])
        self._read = 0

    def hang_up(self) -> None:
        self.running.process.send_signal(signal.SIGHUP)

    async def reloaded(self, why: str = "") -> dict[str, Any]:
        """The next record of a reload, for that reason."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.running.process.poll() is None, self.running.lines
                records = [json.loads(line) for line in list(self.running.lines) if line.startswith("{")]
                reloads = [record for record in records if record["event"] == "reload"]
                while len(reloads) > self._read:
                    self._read += 1
                    if why in reloads[self._read - 1]["why"]:
                        return reloads[self._read - 1]
                await asyncio.sleep(0.01)

    async def ask(self, **fields: Any) -> Answer:
        client = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        await client.send(request(chat(**fields)))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await client.answer()
        finally:
            client.close()

    async def metric(self, name: str) -> float:
        """The value of a series without labels, or with those in the name."""
        async with httpx.AsyncClient() as admin:
            page = (await admin.get(f"{self.running.admin_url}/metrics")).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", page, re.MULTILINE)
        assert found is not None, page
        return float(found[1])

    def calls(self) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in list(self.running.lines) if line.startswith("{")]
        return [record for record in records if record["event"] == "call"]


def document(clouds: tuple[Upstream, Upstream], *accounts: str, **more: Any) -> dict[str, Any]:
    urls = {"a": clouds[0].url, "b": clouds[1].url}
    return config({"r": route(*accounts)}, **{name: urls[name] for name in accounts}) | more


def write(path: Path, text: str) -> None:
    """As one change: another file takes its place."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


@contextlib.asynccontextmanager
async def started(path: Path, **more: Any) -> AsyncIterator[Process]:
    found: list[Process] = []

    async def script(connection: Connection) -> None:
        while data := await connection.request():
            if b'"stream":true' not in data:
                await connection.send(answer_bytes())
                continue
            await connection.send(STREAM_HEAD + chunk(delta("first ")))
            await found[0].released.wait()
            await connection.send(chunk(delta("last")) + chunk(delta(None, "stop") + DONE) + chunk(b""))

    async with upstream(script) as a, upstream(script) as b:
        await asyncio.to_thread(path.write_text, json.dumps(document((a, b), "a", **more)))
        with process.serving("--config", str(path), folder=path.parent) as running:
            found.append(Process(running, path, (a, b)))
            yield found[0]
        assert "Traceback" not in "\n".join(running.lines)


async def test_hang_ups_under_load_cost_no_call_and_cut_no_stream(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        streams = [asyncio.create_task(on.ask(stream=True)) for _ in range(20)]
        await eventually(lambda: len(on.clouds[0].requests) == 20, "the streams did not begin")
        over = asyncio.Event()

        async def load() -> list[int]:
            found = []
            while not over.is_set():
                found.append((await on.ask()).status)
            return found

        loads = [asyncio.create_task(load()) for _ in range(4)]
        for i in range(6):
            write(on.path, json.dumps(document(on.clouds, "b" if i % 2 else "a", server={"grace_s": 100 + i})))
            on.hang_up()
            assert (await on.reloaded("asked"))["result"] == "ok"
        over.set()
        statuses = [status for found in await asyncio.gather(*loads) for status in found]
        assert len(statuses) > 20
        assert set(statuses) == {200}
        assert (await on.ask()).headers["x-arriero-deployment"] == "b"
        assert not any(stream.done() for stream in streams)
        on.released.set()
        answers = await asyncio.gather(*streams)
        assert all(answer.done and "".join(answer.deltas) == "first last" for answer in answers)


async def test_a_config_map_that_is_swapped_is_noticed(tmp_path: Path) -> None:
    """As kubelet does it: config.yaml -> ..data/config.yaml, ..data -> ..2026_1, and ..data is replaced whole."""
    mounted = tmp_path / "config"
    (mounted / "..1").mkdir(parents=True)
    (mounted / "..data").symlink_to("..1")
    (mounted / "arriero.yaml").symlink_to("..data/arriero.yaml")
    async with started(mounted / "arriero.yaml") as on:
        (mounted / "..2").mkdir()
        (mounted / "..2" / "arriero.yaml").write_text(json.dumps(document(on.clouds, "b")))
        (mounted / "..data_tmp").symlink_to("..2")
        os.replace(mounted / "..data_tmp", mounted / "..data")
        record = await on.reloaded()
        assert record | {"ts": 0} == {
            "ts": 0,
            "event": "reload",
            "result": "ok",
            "why": "the file changed",
            "added": "providers.b",
            "changed": "routes.r",
            "removed": "providers.a",
            "needs_restart": None,
        }
        assert (await on.ask()).headers["x-arriero-deployment"] == "b"
        assert await on.metric('arriero_config_reloads_total{result="ok"}') == 1
        assert await on.metric("arriero_config_last_reload_successful") == 1


def _bomb() -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join(lines)


BROKEN = {
    "a YAML bomb": (_bomb(), "through aliases"),
    "an unknown model": (
        "providers: {g: {type: groq, api_key: k}}\nroutes: {llama-9-9b: {deployments: [g]}}",
        "'model' is missing",
    ),
    "a price without its half": (
        "providers: {g: {type: groq, api_key: k}}\n"
        "routes: {r: {deployments: [{account: g, model: m, price: {in: 1}}]}}",
        "'out'",
    ),
    "a name twice": ("providers: {g: {type: groq}, g: {type: groq}}\nroutes: {}", "stands twice"),
    "a key's name twice": (
        "providers: {g: {type: groq, api_key: k}}\nroutes: {r: {deployments: [{account: g, model: m}]}}\n"
        "keys: [{name: k, key: one}, {name: k, key: two}]",
        "stands twice",
    ),
    "half a file": ('{"providers": {"a": {"type": "op', "arriero.yaml"),
    "nothing": ("", "is empty"),
    "a secret that is not there": ("providers: {g: {type: groq, api_key: 'env:NOT_THERE'}}", "NOT_THERE"),
}


async def test_a_broken_file_keeps_the_config_in_force_and_says_why(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        for count, (mistake, (text, why)) in enumerate(BROKEN.items(), 1):
            write(on.path, text)
            on.hang_up()
            record = await on.reloaded("asked")
            assert (record["result"], mistake) == ("failed", mistake)
            assert why in record["error"]
            assert (await on.ask()).status == 200
            assert await on.metric("arriero_config_last_reload_successful") == 0
            assert await on.metric('arriero_config_reloads_total{result="failed"}') >= count
        stale = await on.metric("arriero_config_stale_seconds")
        assert stale > 0
        write(on.path, json.dumps(document(on.clouds, "b")))
        on.hang_up()
        assert (await on.reloaded("asked"))["result"] == "ok"
        assert await on.metric("arriero_config_last_reload_successful") == 1
        assert await on.metric("arriero_config_stale_seconds") == 0


async def test_a_file_that_lacked_something_is_tried_again_until_it_is_there(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        secret = tmp_path / "secret"
        new = document(on.clouds, "b")
        new["providers"]["b"]["api_key"] = f"file:{secret}"
        write(on.path, json.dumps(new))
        record = await on.reloaded()
        assert (record["result"], str(secret) in record["error"]) == ("failed", True)
        secret.write_text("key-of-b")
        record = await on.reloaded()
        assert (record["result"], record["why"]) == ("ok", "tried again")
        assert (await on.ask()).headers["x-arriero-deployment"] == "b"


async def test_a_file_that_is_gone_takes_nothing_away(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        on.path.unlink()
        record = await on.reloaded()
        assert (record["result"], "No such file" in record["error"]) == ("failed", True)
        assert (await on.ask()).status == 200


async def test_what_needs_a_restart_is_said_and_the_rest_is_put_in_force(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        ledger = f"sqlite:///{tmp_path}/other.db"
        write(on.path, json.dumps(document(on.clouds, "b", store={"ledger": ledger})))
        on.hang_up()
        assert (await on.reloaded("asked"))["needs_restart"] == "store"
        assert await on.metric("arriero_config_needs_restart") == 1
        assert (await on.ask()).headers["x-arriero-deployment"] == "b"
        write(on.path, json.dumps(document(on.clouds, "b")))
        on.hang_up()
        assert (await on.reloaded("asked"))["needs_restart"] is None
        assert await on.metric("arriero_config_needs_restart") == 0


async def test_hang_ups_that_come_together_are_done_one_after_the_other(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        write(on.path, json.dumps(document(on.clouds, "b")))
        for _ in range(20):
            on.hang_up()
        assert (await on.reloaded("asked"))["result"] == "ok"
        write(on.path, json.dumps(document(on.clouds, "a")))
        on.hang_up()
        while (await on.reloaded("asked"))["added"] != "providers.a":
            pass
        assert (await on.ask()).headers["x-arriero-deployment"] == "a"


async def test_a_hang_up_while_draining_changes_nothing_and_cuts_nothing(tmp_path: Path) -> None:
    async with started(tmp_path / "arriero.yaml") as on:
        stream = asyncio.create_task(on.ask(stream=True))
        await eventually(lambda: len(on.clouds[0].requests) == 1, "the stream did not begin")
        on.running.process.terminate()
        write(on.path, json.dumps(document(on.clouds, "b")))
        await asyncio.to_thread(on.running.until, '{"ts"')
        await eventually(lambda: any('"draining"' in line for line in on.running.lines), "it does not drain")
        on.hang_up()
        record = await on.reloaded("asked")
        assert (record["result"], record["error"]) == ("refused", "taking leave")
        on.released.set()
        assert (await stream).done
        assert await asyncio.to_thread(on.running.process.wait, PATIENCE_S) == 0


async def test_keys_in_files_are_picked_up_and_the_old_ones_end(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "client-key", tmp_path / "cloud-key"
    ours.write_text("old-client")
    theirs.write_text("old-cloud")
    async with started(tmp_path / "arriero.yaml") as on:
        new = document(on.clouds, "b", keys=[{"name": "team", "key": f"file:{ours}"}])
        new["providers"]["b"]["api_key"] = f"file:{theirs}"
        write(on.path, json.dumps(new))
        on.hang_up()
        await on.reloaded("asked")

        async def status(key: str) -> int:
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as client:
                body = {"model": "r", "messages": [{"role": "user", "content": "Hello"}]}
                return (await client.post(f"{on.running.url}/v1/chat/completions", json=body)).status_code

        assert await status("old-client") == 200
        assert b"Bearer old-cloud" in on.clouds[1].requests[-1]
        write(ours, "new-client")
        write(theirs, "new-cloud")
        await on.reloaded("a key changed")
        assert (await status("new-client"), await status("old-client")) == (200, 401)
        async with asyncio.timeout(PATIENCE_S):
            while b"Bearer new-cloud" not in on.clouds[1].requests[-1]:
                await status("new-client")
        assert not [line for line in on.running.lines if "new-client" in line or "new-cloud" in line]


async def test_without_a_file_a_hang_up_is_answered_and_nothing_else(tmp_path: Path) -> None:
    with process.serving(folder=tmp_path) as running:
        running.process.send_signal(signal.SIGHUP)
        line = await asyncio.to_thread(running.until, '{"ts"')
        assert json.loads(line)["error"] == "the config was made from no file"
        assert running.stop() == 0


async def test_a_reload_may_not_open_to_the_world_what_was_guarded(tmp_path: Path) -> None:
    path = tmp_path / "arriero.yaml"
    bare = config({"r": route("a")}, a="http://127.0.0.1:9/v1")
    tokens = {"admin": {"tokens": [{"name": "ops", "token": "secret-of-ops"}]}}
    await asyncio.to_thread(write, path, json.dumps(bare | tokens | {"keys": [{"name": "team", "key": "secret"}]}))
    world = ("--host", "0.0.0.0", "--admin-host", "0.0.0.0")
    with process.serving("--config", str(path), *world, folder=tmp_path) as running:
        write(path, json.dumps(bare))
        running.process.send_signal(signal.SIGHUP)
        record = json.loads(await asyncio.to_thread(running.until, '{"ts"'))
        assert (record["result"], "is not loopback" in record["error"]) == ("failed", True)
        async with httpx.AsyncClient() as client:
            for url in (f"{running.url}/v1/models", f"{running.admin_url}/admin/decisions"):
                assert (await client.get(url.replace("0.0.0.0", "127.0.0.1"))).status_code == 401
