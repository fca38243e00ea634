"""The load on one contender for one round: wrk for plain calls, stream_load.py for streams; figures of that round."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from bench.contender import KEY, MODEL
from bench.process import Process

CHAT_BYTES = 1024
PROMPT_BYTES = 540_000
"""About 128k tokens."""

Figures = Mapping[str, float]


class Target(NamedTuple):
    """A contender that runs."""

    name: str
    process: Process
    port: int


def missing() -> str:
    return "" if shutil.which("wrk") else "wrk is not installed: apt-get install wrk"


def chat_body(size_bytes: int) -> bytes:
    """A chat request of that size, written without white space as the official SDKs write it."""

    def sized(text: str) -> bytes:
        system = {"role": "system", "content": "You are a patient assistant who answers in two sentences."}
        messages = [system, {"role": "user", "content": text}]
        body = {"model": MODEL, "messages": messages, "temperature": 0.7, "top_p": 0.95, "max_tokens": 128}
        return json.dumps(body, separators=(",", ":")).encode()

    words = "A mule carries corn over the pass; say what it costs and how long it takes. "
    left = size_bytes - len(sized(""))
    return sized((words * (left // len(words) + 1))[:left])


def first_call(stream: bool) -> bytes:
    """A small request, to see who is ready; `once` has the server of streams answer at once."""
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": MODEL, "messages": messages, "stream": stream, "user": "once"}).encode()


class Wrk(NamedTuple):
    """Plain calls by wrk on one core."""

    core: int
    folder: Path

    def run(self, target: Target, body: bytes, connections: int, seconds: float) -> Figures:
        """Calls a second, latencies, CPU of the contender a call. Raises RuntimeError when any call failed."""
        file = self.folder / f"body-{len(body)}.json"
        file.write_bytes(body)
        script = str(Path(__file__).with_name("chat.lua"))
        shape = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", script]
        argv = ["taskset", "-c", str(self.core), "wrk", *shape, f"http://127.0.0.1:{target.port}", "--"]
        before = target.process.cpu_s()
        said = subprocess.run([*argv, str(file), KEY], capture_output=True, text=True, check=True).stdout
        cpu_s = target.process.cpu_s() - before
        found = json.loads(said.splitlines()[-1])
        if found["failed"] or not found["calls"]:
            raise RuntimeError(f"{target.name}: {found['failed']:.0f} of {found['calls']:.0f} calls failed")
        return {
            "rate": found["calls"] / found["seconds"],
            "p50_us": found["p50_us"],
            "p99_us": found["p99_us"],
            "cpu_us": cpu_s / found["calls"] * 1e6,
            "rss_mb": target.process.rss_mb(),
        }


class Streams(NamedTuple):
    """Many streams at once by stream_load.py on one core."""

    core: int

    def run(self, target: Target, streams: int, seconds: float, model: str = MODEL) -> Figures:
        """CPU of the contender an event, events a second, memory while all streams run. Raises RuntimeError."""
        words: Sequence[str] = (str(target.port), KEY, model, str(streams), f"{seconds:g}")
        argv = ["taskset", "-c", str(self.core), sys.executable, "-m", "bench.stream_load", *words]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            _line(child.stdout, target.name)
            before, began = target.process.cpu_s(), time.monotonic()
            found = _line(child.stdout, target.name)
            cpu_s, took_s = target.process.cpu_s() - before, time.monotonic() - began
            rss_mb = target.process.rss_mb()
        if found["failed"] or not found["events"]:
            raise RuntimeError(f"{target.name}: {found['failed']} streams failed, {found['events']} events came")
        return {"event_us": cpu_s / found["events"] * 1e6, "rate": found["events"] / took_s, "rss_mb": rss_mb}


def _line(said: IO[str], name: str) -> dict[str, Any]:
    line = said.readline()
    if not line:
        raise RuntimeError(f"{name}: the streams did not begin")
    found: dict[str, Any] = json.loads(line)
    return found
