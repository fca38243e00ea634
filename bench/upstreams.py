"""The clouds of the bench: nginx with one fixed completion, and the server of streams; faster than who is measured."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.contender import KEY
from bench.contenders.nginx import CONFIG
from bench.process import Process, free_port

COMPLETION_BYTES = 612

SERVER = """\
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    default_type application/json;
    location / {{ return 200 '{completion}'; }}
  }}
"""


def completion() -> str:
    """A chat completion of COMPLETION_BYTES, as a cloud answers one."""

    def sized(text: str) -> str:
        body = {
            "id": "chatcmpl-9f2c41d07be84b6f",
            "object": "chat.completion",
            "created": 1760000000,
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": None, "tool_calls": []},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 231, "completion_tokens": 42, "total_tokens": 273},
            "system_fingerprint": "fp_0a1b2c3d4e",
        }
        return json.dumps(body, separators=(",", ":"))

    words = "The quick brown mule carries two sacks of corn over the pass before noon. " * 8
    return sized(words[: COMPLETION_BYTES - len(sized(""))])


@contextlib.contextmanager
def plain(binary: str, folder: Path, core: int) -> Iterator[int]:
    """nginx answering every call with the completion; its port."""
    folder.mkdir()
    port = free_port()
    server = SERVER.format(port=port, completion=completion())
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(folder=folder, server=server))
    with Process([binary, "-p", str(folder), "-c", str(config)], core, folder / "said.log") as process:
        process.until_ready(port, b"{}", KEY)
        yield port


@contextlib.contextmanager
def streaming(folder: Path, core: int) -> Iterator[int]:
    """The server of streams; its port."""
    folder.mkdir()
    port = free_port()
    with Process([sys.executable, "-m", "bench.stream_server", str(port)], core, folder / "said.log") as process:
        process.until_ready(port, b'{"once":true}', KEY)
        yield port
