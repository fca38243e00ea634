"""Every script in examples/ runs as it stands against a gateway on the clouds in a box."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.run import Sandbox
from tests.background import background
from tests.harness import Served
from tests.needs import need

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NODE_MODULES = ROOT / "tests" / "node" / "node_modules"


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(port=0, clouds=["vllm", "groq"]) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(box: Sandbox) -> Iterator[Served]:
    with background(box.config_text()) as served:
        yield served


def ran(gateway: Served, *command: str | Path, code: int = 0) -> str:
    """What a script printed."""
    env = {**os.environ, "ARRIERO_URL": gateway.base_url}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout + (done.stderr if code else "")


def test_a_call_says_where_it_went_and_how_to_know_why(gateway: Served):
    lines = ran(gateway, sys.executable, EXAMPLES / "openai_python.py").splitlines()
    assert lines[-2].startswith("from vllm for $") or lines[-2].startswith("from groq for $")
    decision = lines[-1].removeprefix("why there: arriero explain ")
    assert gateway.gateway.decisions.get(decision) is not None


def test_a_stream_ends_with_its_usage(gateway: Served):
    assert ran(gateway, sys.executable, EXAMPLES / "openai_stream.py").endswith("32 tokens\n")


def test_a_stream_that_breaks_off_is_said_to(gateway: Served, box: Sandbox):
    for cloud in ("vllm", "groq"):
        box.set(cloud, fault={"kind": "close_after_tokens", "after_tokens": 3})
    try:
        said = ran(gateway, sys.executable, EXAMPLES / "openai_stream.py", code=1)
    finally:
        box.reset()
    assert said.endswith("broke off: stream_incomplete\n")


def test_a_function_is_called_and_its_answer_used(gateway: Served):
    said = ran(gateway, sys.executable, EXAMPLES / "openai_tools.py")
    assert said.startswith("weather(")
    assert "It is sunny in" in said
    assert len(said.splitlines()) >= 2


def test_curl_does_the_same(gateway: Served):
    need("curl", shutil.which("curl") is not None)
    said = ran(gateway, EXAMPLES / "curl.sh")
    assert "HTTP/1.1 200 OK" in said
    assert "x-arriero-deployment: " in said
    assert "data: [DONE]" in said
    assert json.loads(said.splitlines()[-1])["object"] == "list"


def test_node_does_the_same(gateway: Served, tmp_path: Path):
    need("node", shutil.which("node") is not None)
    need("tests/node/node_modules (make test installs it)", (NODE_MODULES / "openai").is_dir())
    shutil.copy(EXAMPLES / "node.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    assert len(ran(gateway, "node", tmp_path / "node.mjs").strip()) > 20


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    assert all(f'"{file.name}"' in text for file in EXAMPLES.iterdir() if file.is_file())
