"""`arriero check`, `models`, `explain` and `sandbox` from outside: what they print, where, and how they end."""

import json
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.config import loading
from sandbox.run import Sandbox
from tests import process
from tests.command.in_process import command

SANDBOX_ROUTES = {"llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b", "llama-3.3-70b"}


def test_check_calls_a_good_config_good(config: Path, tmp_path: Path):
    done = process.run("check", "box.yaml", folder=tmp_path)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1].startswith("box.yaml is good: ")
    assert "cannot be reached" not in done.err


WORRYING = """
providers:
  gone: {type: groq, api_key: k, url: 'http://127.0.0.1:1/openai/v1'}
  own: {type: openai, url: 'http://127.0.0.1:1/v1'}
  spare: {type: nim, api_key: k, url: 'http://127.0.0.1:1/v1'}
routes:
  llama-3.1-70b: {deployments: [gone]}
  mine: {deployments: [{account: own, model: m}]}
keys:
  - {name: a, key: k, routes: ["llama-3.1-*", "gpt-*"]}
"""


def test_check_warns_of_what_would_disappoint_and_still_ends_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "c.yaml").write_text(WORRYING)
    assert command(["check", "c.yaml"], tmp_path) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert lines[0].startswith("warning: routes.llama-3.1-70b: groq llama-3.1-70b ")
    assert "the same weights are at vllm" in lines[0]
    assert lines[1:] == [
        "warning: routes.mine: own has no price, so that cost policies put it last: say 'price'",
        "warning: providers.spare: no enabled deployment is at it",
        "warning: keys[0].routes: 'gpt-*' matches no route",
        "warning: providers.gone: 127.0.0.1:1 cannot be reached: Connection refused",
        "warning: providers.own: 127.0.0.1:1 cannot be reached: Connection refused",
        "c.yaml is good: 3 accounts, 2 routes, 6 warnings",
    ]


def test_check_offline_reaches_for_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "c.yaml").write_text(WORRYING)
    assert command(["check", "--offline", "c.yaml"], tmp_path) == 0
    assert "cannot be reached" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "arriero: c.yaml: cannot be read: No such file or directory\n"),
        ("a: [", "arriero: c.yaml:1:5: expected the node content, but found '<stream end>'\n"),
        (WORRYING.replace("deployments: [gone]", "deployments: [gon]"),
         "arriero: c.yaml: routes.llama-3.1-70b.deployments[0].account: unknown account 'gon'; did you mean 'gone'?\n"),
        (WORRYING + "  - {name: b, key: k}", "arriero: c.yaml: keys[1].key: is the same key as that of 'a'\n"),
    ],
)  # fmt: skip
def test_check_refuses_all_that_serve_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str
):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    assert command(["check", "--offline", "c.yaml"], tmp_path) == 2
    assert capsys.readouterr().err == words


def test_models_prints_the_catalogue_for_people_and_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(["models"], tmp_path) == 0
    people = capsys.readouterr().out
    assert {"groq", "vllm", "bedrock", "oci"} <= set(people.splitlines())
    assert command(["models", "--cloud", "groq"], tmp_path) == 0
    assert capsys.readouterr().out.splitlines()[0] == "groq"
    assert command(["models", "--json", "--cloud", "groq"], tmp_path) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["cloud"] for row in rows} == {"groq"}
    assert command(["models", "--cloud", "grok"], tmp_path) == 2
    assert capsys.readouterr().err == "arriero: --cloud: unknown cloud 'grok'; did you mean 'groq'?\n"


def test_a_reader_that_leaves_early_is_no_error_message(tmp_path: Path):
    shell = f"{process.ARRIERO} models --json | head -c 10"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=process.environment(), capture_output=True, timeout=process.PATIENCE_S
    )
    assert done.stderr == b""


def _ask(gateway: process.Running, **headers: str) -> Any:
    body = json.dumps({"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3})
    request = urllib.request.Request(
        f"{gateway.url}/v1/chat/completions", body.encode(), {"content-type": "application/json", **headers}
    )
    return urllib.request.urlopen(request, timeout=process.PATIENCE_S)


def test_explain_tells_a_call_by_either_of_its_ids_and_a_call_not_made(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with process.serving("--config", str(config), folder=tmp_path) as gateway:
        with _ask(gateway, **{"x-request-id": "my-call"}) as response:
            decision = response.headers["x-arriero-decision"]
            deployment = response.headers["x-arriero-deployment"]
        at = ["--admin-url", gateway.admin_url]
        assert command(["explain", decision, *at], tmp_path) == 0
        by_decision = capsys.readouterr().out
        assert decision in by_decision
        assert f"attempt 1 {deployment}: ok" in by_decision
        assert command(["explain", "my-call", *at, "--json"], tmp_path) == 0
        by_request = json.loads(capsys.readouterr().out)
        assert (by_request["id"], by_request["request_id"]) == (decision, "my-call")
        assert by_request["attempts"][0]["deployment"] == deployment
        dry = ["explain", "--route", "llama-3.1-8b", "--prompt-tokens", "1000", "--max-tokens", "10", "--json"]
        assert command([*dry, *at, "--feature", "tools", "--stream", "--label", "region=eu"], tmp_path) == 0
        said = capsys.readouterr()
        asked = json.loads(said.out)
        assert said.err == ""
        assert (asked["prompt_tokens"], asked["max_output_tokens"], asked["stream"]) == (1000, 10, True)
        assert asked["labels"] == {"region": "eu"}
        assert "tools" in asked["features"]
        learned = next(c for c in asked["candidates"] if c["deployment"] == deployment)
        assert learned["in_flight"] == 0
        assert command(["explain", "--route", "llama", "--prompt-tokens", "1", *at], tmp_path) == 1
        assert "The model 'llama' does not exist." in capsys.readouterr().err


def test_explain_without_a_gateway_answers_from_the_config(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    nobody = ["--admin-url", "http://127.0.0.1:1"]
    dry = ["explain", "--route", "llama-3.1-8b", "--prompt-tokens", "1000", *nobody]
    assert command([*dry, "--config", "box.yaml"], tmp_path) == 0
    said = capsys.readouterr()
    assert said.err == "no gateway answers at http://127.0.0.1:1: explained from box.yaml, with nothing learned yet\n"
    assert "order     " in said.out
    assert "llama-3.1-8b  chat/completions plain, 1000 tokens in" in said.out
    assert command(dry, tmp_path) == 2
    assert "there is no arriero.yaml to explain from" in capsys.readouterr().err
    assert command(["explain", "dec_x", *nobody], tmp_path) == 1
    assert capsys.readouterr().err == (
        "arriero: no gateway answers at http://127.0.0.1:1: say where with --admin-url\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("explain", "arriero: explain: name a decision, or a call with --route and --prompt-tokens"),
        ("explain --route r", "arriero: --prompt-tokens: is missing: how long is the prompt of the call to explain?"),
        ("explain --route r --prompt-tokens -1", "--prompt-tokens: '-1' is not a whole number"),
        ("explain --route r --prompt-tokens 1e3", "'1e3' is not a whole number from 0 to 999,999,999"),
        ("explain --route r --prompt-tokens 1 --max-tokens 0", "argument --max-tokens: must be at least 1"),
        ("explain --route r --prompt-tokens 1 --label eu", "arriero: --label: 'eu' is not of the form name=value"),
    ],
)
def test_explain_refuses_half_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, words: str
):
    assert command(arguments.split(), tmp_path) == 2
    assert words in capsys.readouterr().err


def test_the_sandbox_writes_a_config_that_loads_and_is_good(
    box: Sandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(["sandbox", "--print-config", "--port", "19100"], tmp_path) == 0
    text = capsys.readouterr().out
    (tmp_path / "box.yaml").write_text(text)
    assert command(["check", "--offline", "box.yaml"], tmp_path) == 0
    assert set(loading.parse(text).routes) >= SANDBOX_ROUTES
    printed, ours = yaml.safe_load(text), yaml.safe_load(box.config_text())
    assert set(ours["routes"]) <= set(printed["routes"])
    for name, account in ours["providers"].items():  # they differ in ports alone
        assert printed["providers"][name] == {**account, "url": printed["providers"][name]["url"]}


def test_the_sandbox_alone_says_where_each_cloud_is_and_ends_when_asked_to(tmp_path: Path):
    sandbox = subprocess.Popen(
        [process.ARRIERO, "sandbox", "--port", "0"],
        cwd=tmp_path,
        env=process.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert sandbox.stderr is not None
    urls: dict[str, str] = {}
    try:
        while "nim" not in urls:
            name, _, url = sandbox.stderr.readline().strip().partition(" ")
            assert url, "it ended"
            urls[name] = url.strip()
        with urllib.request.urlopen(f"{urls['control']}/calls", timeout=process.PATIENCE_S) as response:
            assert json.load(response)["calls"] == []
    finally:
        sandbox.send_signal(signal.SIGINT)
        sandbox.wait(process.PATIENCE_S)
        sandbox.stderr.close()
    assert {"vllm", "groq", "azure", "vertex", "databricks", "nim"} <= set(urls)
    assert sandbox.returncode == 130


def test_the_sandbox_names_a_busy_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert command(["sandbox", "--port", str(port)], tmp_path) == 2
    reason = "cannot listen there and on the ports after it: Address already in use; choose another"
    assert capsys.readouterr().err == f"arriero: --port: {port}: {reason}\n"
