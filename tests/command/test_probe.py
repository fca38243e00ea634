"""`python -m gateway.probe` from outside: what it says of a gateway, and what of none."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from tests import process


def probe(*arguments: str, env: dict[str, str] | None = None) -> process.Finished:
    command = [sys.executable, "-m", "gateway.probe", *arguments]
    done = subprocess.run(command, env=process.environment(env), capture_output=True, text=True, timeout=60)
    return process.Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def answering():
    """A server that gives each path its answer; its URL comes with the table."""
    table: dict[str, tuple[int, object]] = {"/readyz": (200, {"status": "ready"})}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = table.get(self.path, (404, {}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_POST = do_GET  # noqa: N815  (as http.server has it)

        def log_message(self, *_: object) -> None:
            """Nothing: the test asks what matters."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", table
    server.shutdown()
    server.server_close()


def test_a_ready_gateway_is_said_to_be_ready(answering):
    url, _ = answering
    assert probe("--url", url) == (0, f"{url}: ready\n", "")
    port = url.rpartition(":")[2]
    assert probe(env={"ARRIERO_PORT": port}).code == 0


def test_a_gateway_that_takes_leave_is_not_ready(answering):
    url, table = answering
    table["/readyz"] = (503, {"status": "draining"})
    assert probe("--url", url) == (1, "", f'{url}: 503 {{"status": "draining"}}\n')


def test_nobody_there_is_a_no_and_no_traceback():
    found = probe("--url", "http://127.0.0.1:9")
    assert found.code == 1
    assert found.err.startswith("http://127.0.0.1:9: no answer: ")
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    ("models", "answer", "words"),
    [
        ((401, {}), (200, {}), "401"),
        ((200, {"data": []}), (200, {}), "this key may use no route"),
        ((200, {"data": [{"id": "r"}]}), (502, {"error": {}}), "502"),
        ((200, {"data": [{"id": "r"}]}), (200, {"choices": []}), "the answer of r holds no choice"),
        ((200, {"data": [{"id": "r"}]}), (200, []), "the answer is no JSON object"),
    ],
)
def test_a_call_that_is_not_answered_says_why(answering, models, answer, words: str):
    url, table = answering
    table |= {"/v1/models": models, "/v1/chat/completions": answer}
    found = probe("--url", url, "--call")
    assert (found.code, found.out) == (1, "")
    assert words in found.err


def test_a_key_that_is_not_there_is_named(answering):
    found = probe("--url", answering[0], "--call", "--key", "env:NO_SUCH_KEY")
    assert (found.code, found.err) == (1, f"{answering[0]}: the environment variable NO_SUCH_KEY is not set\n")
