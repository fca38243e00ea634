"""What translation costs: CPU of calls at clouds of another dialect, as ratios to calls that pass through.

The clouds are the sandbox's, which check every signature; their own speed does not count, only the gateway's CPU."""

import json
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from bench.contender import KEY
from bench.load import Streams, Target, Wrk, chat_body
from bench.machine import Cores
from bench.process import Process, ask, free_port, free_ports, plain_env

WEIGHTS = "llama-3.3-70b"
PASSED_THROUGH, SIGNED = "groq", "oci-openai"
BASES = {PASSED_THROUGH: PASSED_THROUGH, "bedrock": PASSED_THROUGH, SIGNED: PASSED_THROUGH, "oci": SIGNED}
"""What is measured, and what each is held against: calls at Oracle's OpenAI path are passed through, but signed."""
CONNECTIONS = 8
STREAMS = 50
EVENT_EVERY_S = 0.02
PORTS = 16
"""The sandbox's control port and those of its clouds, which follow it."""
BODY_BYTES = 1024


class Row(NamedTuple):
    """CPU of the gateway in microseconds, for a whole call and for an event of a stream; medians. `base` is the row it
    is held against."""

    cloud: str
    base: str
    call_us: float
    event_us: float


class Translation(NamedTuple):
    """The figures of all clouds, the one that is passed through first, and one RSA signature alone."""

    rows: Sequence[Row]
    rsa_us: float


def measure(
    arriero: str, cores: Cores, folder: Path, plan: tuple[int, float], say: Callable[[str], None]
) -> Translation:
    """Every cloud in turn, in so many rounds of so many seconds. Raises RuntimeError when a call fails."""
    control, port = free_ports(PORTS), free_port()
    config = folder / "translated.yaml"
    with Process(
        [arriero, "sandbox", "--port", str(control)], cores.others, folder / "sandbox.log", plain_env()
    ) as box:
        _until_up(control, box)
        config.write_text(_config(arriero, control))
        argv = [arriero, "serve", "--config", str(config), "--port", str(port), "--admin-port", str(free_port())]
        with Process(argv, cores.contender, folder / "translated.log", plain_env()) as gateway:
            clouds = tuple(BASES)
            target = Target("Arriero", gateway, port)
            gateway.until_ready(port, _body(PASSED_THROUGH), KEY)
            calls, events = _rounds(clouds, target, cores, folder, (*plan, control))
            say(f"translated: {', '.join(f'{cloud} {statistics.median(calls[cloud]):.0f} us' for cloud in clouds)}")
    rows = [
        Row(cloud, base, statistics.median(calls[cloud]), statistics.median(events[cloud]))
        for cloud, base in BASES.items()
    ]
    return Translation(rows, _rsa_us())


def _rounds(
    clouds: Sequence[str], target: Target, cores: Cores, folder: Path, plan: tuple[int, float, int]
) -> tuple[Mapping[str, list[float]], Mapping[str, list[float]]]:
    """CPU per call and per event of every cloud in every round."""
    rounds, seconds, control = plan
    wrk, load = Wrk(cores.others, folder), Streams(cores.others)
    calls: dict[str, list[float]] = {cloud: [] for cloud in clouds}
    events: dict[str, list[float]] = {cloud: [] for cloud in clouds}
    for _ in range(rounds):
        for cloud in clouds:
            _pace(control, cloud.partition("-")[0], 0.0)
            calls[cloud].append(wrk.run(target, _body(cloud), CONNECTIONS, seconds)["cpu_us"])
            _pace(control, cloud.partition("-")[0], EVENT_EVERY_S)
            events[cloud].append(load.run(target, STREAMS, seconds, cloud)["event_us"])
    return calls, events


def _body(cloud: str) -> bytes:
    return json.dumps(json.loads(chat_body(BODY_BYTES)) | {"model": cloud}, separators=(",", ":")).encode()


def _config(arriero: str, control: int) -> str:
    """A route to each cloud alone, named as the cloud, and a key."""
    argv = [arriero, "sandbox", "--port", str(control), "--print-config"]
    demo = yaml.safe_load(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    demo["providers"][SIGNED] = demo["providers"]["oci"] | {"api": "openai"}
    of_weights = demo["routes"][WEIGHTS]["deployments"]
    of_weights += [one | {"account": SIGNED} for one in of_weights if one["account"] == "oci"]
    routes = {cloud: {"deployments": [one for one in of_weights if one["account"] == cloud]} for cloud in BASES}
    lacking = [cloud for cloud, route in routes.items() if not route["deployments"]]
    if lacking:
        raise RuntimeError(f"the sandbox has no {WEIGHTS} at {', '.join(lacking)}")
    providers = {cloud: demo["providers"][cloud] for cloud in routes}
    store = {"ledger": "sqlite:///:memory:"}
    keys = [{"name": "bench", "key": KEY}]
    return yaml.safe_dump({"providers": providers, "routes": routes, "keys": keys, "store": store})


def _until_up(control: int, box: Process) -> None:
    while not _answers(control):
        if time.monotonic() > box.began + 30.0:
            raise RuntimeError(f"the sandbox did not start: {box.log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)


def _answers(control: int) -> bool:
    return ask(control, b"{}", KEY).startswith(b"HTTP/1.1 ")


def _pace(control: int, cloud: str, tpot_s: float) -> None:
    """How fast the cloud answers: at once, or an event every so often."""
    body = json.dumps({"ttft_s": 0.0, "tpot_s": tpot_s}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{control}/_sandbox/{cloud}", body, method="PUT")
    with urllib.request.urlopen(request, timeout=10.0) as answer:
        answer.read()


def _rsa_us() -> float:
    """One signature as OCI wants it, by the library that makes ours: a floor that no translation can be below."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    times = []
    for _ in range(200):
        began = time.perf_counter()
        key.sign(b"x" * 300, padding.PKCS1v15(), hashes.SHA256())
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6
