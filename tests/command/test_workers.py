"""`arriero serve --workers N`: several processes, one port, one set of limits."""

import asyncio
import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process import free_ports
from sandbox.run import Sandbox
from tests import process
from tests.redis_server import RedisServer


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    found = RedisServer(tmp_path / "redis")
    asyncio.run(found.start())
    yield found
    found.kill()


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(port=0, clouds=["vllm"]) as found:
        yield found


def written(box: Sandbox, folder: Path, redis: RedisServer) -> Path:
    file = folder / "arriero.yaml"
    text = "keys: [{name: a, key: key-a, limits: {rpm: 5}}]\n"
    file.write_text(f"{box.config_text()}\n{text}store: {{redis: '{redis.url}', redis_timeout_s: 10}}\n")
    return file


def ask(url: str) -> int:
    """One call on a connection of its own; its status, 0 while nobody listens."""
    body = {"model": "llama-3.1-8b", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"authorization": "Bearer key-a", "content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_workers_share_one_limit_and_come_back_when_they_die(box: Sandbox, redis: RedisServer, tmp_path: Path):
    written(box, tmp_path, redis)
    admin = {"ARRIERO_ADMIN_PORT": str(free_ports(3))}
    with process.serving("--workers", "3", folder=tmp_path, env=admin) as gateway:
        gateway.until("worker 2 is ready")
        gateway.until("worker 1 is ready")
        workers = children(gateway.process.pid)
        assert len(workers) == 3
        assert Counter(ask(gateway.url) for _ in range(30)) == {200: 5, 429: 25}
        os.kill(workers[0], signal.SIGKILL)
        deadline = time.monotonic() + process.PATIENCE_S
        while len(children(gateway.process.pid)) < 3 or workers[0] in children(gateway.process.pid):
            assert time.monotonic() < deadline, "it never came back"
            time.sleep(0.02)
        assert {ask(gateway.url) for _ in range(10)} <= {429, 200, 0}
        assert gateway.stop() == 0
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_workers_without_redis_are_refused_with_the_remedy(box: Sandbox, tmp_path: Path):
    (tmp_path / "arriero.yaml").write_text(box.config_text())
    done = process.run("serve", "--workers", "2", folder=tmp_path)
    assert done.code == 2
    assert "--workers: 2 workers share limits, budgets and what they learn of clouds through Redis" in done.err
    assert "store: {redis: env:REDIS_URL}" in done.err
