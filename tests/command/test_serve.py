"""`arriero serve` from outside: where its config comes from, what it says, what it refuses, how it ends."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import ConfigError
from gateway.serve import Listen, running
from sandbox.run import Sandbox
from tests import process
from tests.command.in_process import command
from tests.needs import need

SIMPLE = """
providers: {a: {type: openai, url: 'http://127.0.0.1:1/v1', api_key: k}}
routes: {r: {deployments: [{account: a, model: m}]}}
"""

TOKENS = "admin: {tokens: [{name: ops, token: secret-token}]}\n"
KEYS = "keys: [{name: a, key: k}]\n"


def get(url: str, token: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=process.PATIENCE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def chat(url: str, model: str, **headers: str) -> dict[str, Any]:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"content-type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=process.PATIENCE_S) as response:
        return dict(json.load(response))


def test_the_start_screen_says_all_one_needs_and_its_lines_run_as_they_stand(config: Path, tmp_path: Path):
    need("curl", any((Path(folder) / "curl").exists() for folder in os.environ["PATH"].split(":")))
    with process.serving("--config", str(config), folder=tmp_path) as gateway:
        screen = gateway.screen
        assert f"Config: {config}" in screen
        assert "Key: any (no keys in the config)" in screen
        assert "  llama-3.1-8b  (capability > context_window > breaker > headroom > lowest_cost)\n" in screen
        assert "groq $0.05/0.08" in screen
        assert "vllm (own GPUs)" in screen
        lines = screen.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("  curl "))
        shell, python = "\n".join(lines[start : start + 2]), "\n".join(line[2:] for line in lines[-3:])
        curl = subprocess.run(["sh", "-c", shell.replace("curl", "curl -s")], capture_output=True, text=True)
        assert json.loads(curl.stdout)["choices"][0]["message"]["content"]
        pasted = subprocess.run([sys.executable, "-c", python], capture_output=True, text=True)
        assert pasted.stdout.strip() == json.loads(curl.stdout)["choices"][0]["message"]["content"]
        assert get(f"{gateway.url}/readyz") == (200, b'{"status":"ready"}')
        assert get(f"{gateway.admin_url}/healthz") == (200, b'{"status":"ok"}')


def test_with_keys_the_screen_names_them_and_pastes_a_variable(config: Path, tmp_path: Path):
    config.write_text(config.read_text() + "keys: [{name: team-a, key: env:TEAM_A}]\n")
    env = {"TEAM_A": "canary-key", "ARRIERO_CONFIG": str(config)}
    with process.serving(folder=tmp_path, env=env) as gateway:
        assert "Keys: team-a (from the config)" in gateway.screen
        assert "Bearer $ARRIERO_KEY" in gateway.screen
        assert 'os.environ["ARRIERO_KEY"]' in gateway.screen
        assert "canary-key" not in gateway.screen
        assert chat(gateway.url, "llama-3.1-8b", authorization="Bearer canary-key")["model"] == "llama-3.1-8b"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            chat(gateway.url, "llama-3.1-8b", authorization="Bearer wrong")


def test_the_config_is_found_flag_first_then_variable_folder_credentials_and_the_sandbox(box: Sandbox, tmp_path: Path):
    folder = tmp_path / "here"
    folder.mkdir()
    by_flag, by_variable, by_folder = tmp_path / "flag.yaml", tmp_path / "variable.yaml", folder / "arriero.yaml"
    for file in (by_flag, by_variable, by_folder):
        file.write_text(SIMPLE)
    env = {
        "ARRIERO_CONFIG": str(by_variable),
        "VLLM_URL": box.urls["vllm"],
        "VLLM_API_KEY": box.demo["vllm"]["api_key"],
        "GROQ_API_KEY": box.demo["groq"]["api_key"],
        "GROQ_BASE_URL": box.origins["groq"],
    }
    with process.serving("--config", str(by_flag), folder=folder, env=env) as gateway:
        assert f"Config: {by_flag}\n" in gateway.screen
    with process.serving(folder=folder, env=env) as gateway:
        assert f"Config: {by_variable}\n" in gateway.screen
    del env["ARRIERO_CONFIG"]
    with process.serving(folder=folder, env=env) as gateway:
        assert "Config: arriero.yaml\n" in gateway.screen
    by_folder.unlink()
    with process.serving(folder=folder, env=env) as gateway:
        assert "Config: made from the credentials in the environment (vllm, groq)\n" in gateway.screen
        assert chat(gateway.url, "llama-3.1-8b")["usage"]["completion_tokens"] == 3
        status, models = get(f"{gateway.url}/v1/models")
        assert status == 200
        names = {model["id"] for model in json.loads(models)["data"]}
        assert {"llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-405b", "llama-3.3-70b"} <= names


def test_without_anything_it_runs_on_the_sandbox_and_says_so(tmp_path: Path):
    with process.serving(folder=tmp_path) as gateway:
        assert "Config: the built-in sandbox\n" in gateway.screen
        assert "Note: these are clouds in a box on this machine" in gateway.screen
        assert "arriero.yaml to leave" in gateway.screen
        assert chat(gateway.url, "llama-3.1-8b")["choices"][0]["finish_reason"] == "length"
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        ("serve --prot 1", {}, "unrecognized arguments: --prot 1"),
        ("serve --admin 1", {}, "unrecognized arguments: --admin 1"),
        ("serve --port http", {}, "argument --port: 'http' is not a port (0 to 65535)"),
        ("serve", {"ARRIERO_PORT": "99999"}, "arriero: ARRIERO_PORT: '99999' is not a port (0 to 65535)"),
        ("serve", {"ARRIERO_ADMIN_PORT": "x"}, "arriero: ARRIERO_ADMIN_PORT: 'x' is not a port (0 to 65535)"),
        ("serve --workers 4", {}, "arriero: --workers: 4 workers share limits"),
        ("serve --config no.yaml", {}, "arriero: no.yaml: cannot be read: No such file or directory"),
        ("serve", {"ARRIERO_CONFIG": "no.yaml"}, "arriero: no.yaml: cannot be read: No such file or directory"),
        ("serve", {"VLLM_URL": "ftp://x", "VLLM_MODEL": "m"}, "environment (vllm): providers.vllm: 'url' must be http"),
        ("serve --config bad.yaml", {}, "arriero: bad.yaml: routes.r.policy: unknown word 'policy'; did you mean 'pol"),
        ("serve --config yaml.yaml", {}, "arriero: yaml.yaml:1:5: expected the node content, but found '<stream end>'"),
        ("serve --config keys.yaml", {}, "arriero: keys.yaml: keys[1].key: is the same key as that of 'a'"),
        ("serve --config lanes.yaml", {}, "arriero: lanes.yaml: routes.r.deployments[0].account: unknown account 'b'"),
        ("serve --config keyed.yaml --host no.such.invalid", {}, "arriero: --host: 'no.such.invalid' is not an addr"),
        ("serve --config ok.yaml --host 0.0.0.0", {}, "arriero: --host: 0.0.0.0 is not loopback and the config has no"),
        ("serve --config ok.yaml", {"ARRIERO_HOST": "192.0.2.1"}, "arriero: --host: 192.0.2.1 is not loopback and"),
        ("serve --host 0.0.0.0", {"ARRIERO_SANDBOX_PORT": "0"}, "is not loopback and the config has no 'keys'"),
        ("sandbox --port 70000", {}, "argument --port: '70000' is not a port (0 to 65535)"),
        ("fly", {}, "invalid choice: 'fly'"),
        ("", {}, "the following arguments are required: COMMAND"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, env: dict[str, str], words: str
):
    files = {
        "ok": SIMPLE,
        "yaml": "a: [",
        "bad": SIMPLE.replace("deployments:", "policy: [breaker], deployments:"),
        "lanes": SIMPLE.replace("{account: a", "{account: b"),
        "keyed": SIMPLE + KEYS,
        "keys": SIMPLE + "keys: [{name: a, key: k}, {name: b, key: k}]",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    code = command(arguments.split(), tmp_path, {"ARRIERO_PORT": "0", "ARRIERO_ADMIN_PORT": "0", **env})
    said = capsys.readouterr()
    assert (code, said.out) == (2, "")
    assert words in said.err


def test_a_process_ends_with_that_code_and_without_a_traceback(tmp_path: Path):
    (tmp_path / "arriero.yaml").write_text(SIMPLE.replace("deployments:", "policy: [breaker], deployments:"))
    done = process.run("serve", folder=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err == "arriero: arriero.yaml: routes.r.policy: unknown word 'policy'; did you mean 'policies'?\n"


def test_help_names_every_command_and_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command(["--help"], tmp_path) == 0
    overview = capsys.readouterr().out
    for name in ("serve", "check", "schema", "models", "explain", "sandbox"):
        assert f"    {name} " in overview
        assert command([name, "--help"], tmp_path) == 0
    flags = capsys.readouterr().out
    serve = "--config FILE, --host, --port, --admin-host, --admin-port, --workers"
    explain = "--route R, --prompt-tokens N, --max-tokens N, --stream, --feature F, --label K=V, --json"
    for flag in f"{serve}, {explain}, --cloud C, --print-config".split(", "):
        assert flag in flags


def test_half_a_set_of_credentials_is_said_and_left_out(tmp_path: Path):
    env = {"GROQ_API_KEY": "k", "AZURE_AI_API_KEY": "k"}
    with process.serving(folder=tmp_path, env=env) as gateway:
        assert "Config: made from the credentials in the environment (groq)\n" in gateway.screen
        assert "Note: azure is left out: AZURE_AI_API_KEY is set but AZURE_AI_ENDPOINT is not\n" in gateway.screen


@pytest.mark.parametrize("flag", ["port", "admin-port"])
def test_a_busy_port_is_named_with_its_flag(config: Path, tmp_path: Path, flag: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        twin = {"ARRIERO_PORT": "0", "ARRIERO_ADMIN_PORT": "0", f"ARRIERO_{flag.replace('-', '_').upper()}": str(port)}
        done = process.run("serve", "--config", str(config), folder=tmp_path, env=twin)
    assert done.code == 2
    assert done.err == f"arriero: --{flag}: cannot listen on 127.0.0.1:{port}: Address already in use; choose another\n"


def test_a_flag_beats_its_twin_in_the_environment(config: Path, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"ARRIERO_PORT": str(taken.getsockname()[1]), "ARRIERO_HOST": "no.such.invalid"}
        with process.serving(
            "--port", "0", "--host", "127.0.0.1", "--config", str(config), folder=tmp_path, env=env
        ) as gateway:
            assert get(f"{gateway.url}/healthz")[0] == 200


def test_a_call_is_one_line_of_json_where_no_terminal_is(config: Path, tmp_path: Path):
    with process.serving("--config", str(config), folder=tmp_path) as gateway:
        chat(gateway.url, "llama-3.1-8b", **{"x-request-id": "my-id"})
        gateway.until('{"ts"')
        assert gateway.stop() == 0
        logged = [json.loads(line) for line in gateway.lines if line.startswith("{")]
    calls = [record for record in logged if record["event"] == "call"]
    assert len(calls) == 1
    assert (calls[0]["id"], calls[0]["status"], calls[0]["output_tokens"]) == ("my-id", 200, 3)
    assert [record["event"] for record in logged if record["event"] != "call"] == ["draining"]


def test_a_call_is_one_short_line_on_a_terminal(config: Path, tmp_path: Path):
    ours, theirs = pty.openpty()
    gateway = subprocess.Popen(
        [process.ARRIERO, "serve", "--config", str(config), "--port", "0", "--admin-port", "0"],
        cwd=tmp_path,
        env=process.environment(),
        stderr=theirs,
        stdin=subprocess.DEVNULL,
    )
    os.close(theirs)
    said = ""
    try:
        said = _read_until(ours, said, "print(client")
        chat(said.partition("listens on ")[2].partition("/v1")[0], "llama-3.1-8b")
        said = _read_until(ours, said, " call ")
        said = _read_until(ours, said, "cost_usd=")
    finally:
        gateway.terminate()
        gateway.wait(process.PATIENCE_S)
        os.close(ours)
    line = next(line for line in said.splitlines() if " call " in line)
    assert "status=200" in line
    assert "{" not in line


def _read_until(fd: int, said: str, words: str) -> str:
    deadline = time.monotonic() + process.PATIENCE_S
    while words not in said:
        assert time.monotonic() < deadline
        said += os.read(fd, 65536).decode()
    return said


@pytest.mark.parametrize(("with_signal", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_when_asked_to(config: Path, tmp_path: Path, with_signal: signal.Signals, code: int):
    with process.serving("--config", str(config), folder=tmp_path) as gateway:
        assert gateway.stop(with_signal) == code


def _gateway(more: str) -> Gateway:
    return Gateway(loading.parse(SIMPLE + more))


@pytest.mark.parametrize(
    ("more", "listen"),
    [
        (KEYS, Listen("0.0.0.0", 0, "127.0.0.1", 0)),
        ("server: {allow_anonymous: true}\n", Listen("0.0.0.0", 0, "127.0.0.1", 0)),
        (TOKENS, Listen("127.0.0.1", 0, "0.0.0.0", 0)),
        (KEYS + TOKENS, Listen("0.0.0.0", 0, "0.0.0.0", 0)),
        (KEYS, Listen("0.0.0.0", 0, "0.0.0.0", 0)),
        ("", Listen("localhost", 0, "127.0.0.2", 0)),
    ],
)
async def test_beyond_loopback_with_keys_is_fine(more: str, listen: Listen):
    async with running(_gateway(more), listen) as found:
        assert found.port


@pytest.mark.parametrize(
    ("more", "listen", "path"),
    [
        ("", Listen("0.0.0.0", 0, "127.0.0.1", 0), "--host"),
        (TOKENS, Listen("0.0.0.0", 0, "127.0.0.1", 0), "--host"),
        ("", Listen("192.0.2.1", 0, "127.0.0.1", 0), "--host"),
        ("", Listen("127.example.invalid", 0, "127.0.0.1", 0), "--host"),
        ("", Listen("", 0, "127.0.0.1", 0), "--host"),
    ],
)
async def test_beyond_loopback_without_keys_is_refused(more: str, listen: Listen, path: str):
    with pytest.raises(ConfigError) as caught:
        async with running(_gateway(more), listen):
            pass
    assert caught.value.path == path
    assert "is not loopback" in caught.value.reason


def test_the_admin_port_asks_for_a_token_where_the_config_has_some(config: Path, tmp_path: Path):
    config.write_text(config.read_text() + "admin: {tokens: [{name: ops, token: secret-token, scope: read}]}\n")
    with process.serving("--config", str(config), folder=tmp_path) as gateway:
        assert get(f"{gateway.admin_url}/metrics")[0] == 200
        assert get(f"{gateway.admin_url}/healthz")[0] == 200
        assert get(f"{gateway.admin_url}/admin/decisions")[0] == 401
        assert get(f"{gateway.admin_url}/admin/decisions", "wrong")[0] == 401
        assert get(f"{gateway.admin_url}/admin/decisions", "secret-token") == (200, b"[]")
        assert get(f"{gateway.url}/admin/decisions", "secret-token")[0] == 404
        assert get(f"{gateway.url}/metrics")[0] == 404
        without = process.run("explain", "x", "--admin-url", gateway.admin_url, folder=tmp_path)
        assert (without.code, without.err.strip()) == (
            1,
            "arriero: The admin token is missing or not known here: send `Authorization: Bearer <token>`.",
        )
        env = {"ARRIERO_ADMIN_TOKEN": "secret-token", "ARRIERO_ADMIN_URL": gateway.admin_url}
        with_token = process.run("explain", "x", folder=tmp_path, env=env)
        assert with_token.err.strip() == "arriero: There is no decision or request 'x' in the ledger."
        assert with_token.code == 1


def test_an_admin_port_beyond_loopback_without_tokens_tells_metrics_and_health_alone(config: Path, tmp_path: Path):
    with process.serving("--config", str(config), "--admin-host", "0.0.0.0", folder=tmp_path) as gateway:
        assert get(f"{gateway.admin_url}/metrics")[0] == 200
        assert get(f"{gateway.admin_url}/readyz")[0] == 200
        status, body = get(f"{gateway.admin_url}/admin/decisions")
        assert status == 403
        assert "admin: {tokens:" in str(body)


def test_without_a_file_the_key_is_had_from_the_environment(tmp_path: Path):
    env = {"ARRIERO_KEY": "key-of-the-demo"}
    with process.serving("--host", "0.0.0.0", folder=tmp_path, env=env) as gateway:
        assert get(f"{gateway.url}/v1/models")[0] == 401
        asked = [sys.executable, "-m", "gateway.probe", "--url", gateway.url, "--call", "--key", "env:ARRIERO_KEY"]
        done = subprocess.run(asked, env=process.environment(env), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert " answered in " in done.stdout
