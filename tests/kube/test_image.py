"""The image as a cluster runs it: any user, nothing writable, no capability, few files; and what lies in it."""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process import free_port
from sandbox.run import Sandbox
from tests.harness import Caller, Connection, answer_bytes, chat, request, upstream
from tests.kube.tools import CACHE, ROOT, run, tool
from tests.needs import need

IMAGE = "localhost/arriero:test"
MAX_MB = 250
PATIENCE_S = 120.0
HELD = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
LIMITS = ("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096", "--memory", "512m")
PODMAN = ("--runtime", "runc", "--cgroup-manager", "cgroupfs")

pytestmark = pytest.mark.timeout(1500)


def fingerprint() -> str:
    """Of all that the build sees."""
    seen = [ROOT / line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    found = hashlib.sha256()
    for path in sorted({ROOT / "Dockerfile", *seen, *(part for folder in seen for part in folder.rglob("*"))}):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(path.read_bytes())
    return found.hexdigest()[:16]


@pytest.fixture(scope="module")
def image() -> str:
    return built()


def built(extras: str = "") -> str:
    """As `make image` does it, once for all that goes into it."""
    need("podman and buildah, as root", shutil.which("podman") is not None and shutil.which("buildah") is not None)
    need("the right to run containers (root)", os.geteuid() == 0)
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        name = f"{IMAGE}-{extras}{fingerprint()}"
        if podman("image", "exists", name).returncode:
            env = {**os.environ, "IMAGE": name, "EXTRAS": extras}
            done = subprocess.run([ROOT / ".ci" / "image.sh"], env=env, capture_output=True, text=True, timeout=1400)
            assert done.returncode == 0, done.stdout + done.stderr
    return name


def podman(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "STORAGE_DRIVER": "overlay"}
    return subprocess.run(["podman", *PODMAN, *arguments], env=env, capture_output=True, text=True, timeout=PATIENCE_S)


class Container:
    """One container of the image on the host's network."""

    def __init__(self, id_: str, port: int) -> None:
        self.id, self.url = id_, f"http://127.0.0.1:{port}"

    def logs(self) -> str:
        done = podman("logs", self.id)
        return done.stdout + done.stderr

    def get(self, path: str, key: str = "") -> int:
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.fixture
def container(image: str) -> Iterator[Container]:
    with running(image) as found:
        yield found


@contextlib.contextmanager
def running(image: str, *flags: str, **more: str) -> Iterator[Container]:
    port, admin = free_port(), free_port()
    env = {
        "ARRIERO_KEY": "the-key",
        "ARRIERO_PORT": f"{port}",
        "ARRIERO_ADMIN_PORT": f"{admin}",
        "ARRIERO_SANDBOX_PORT": "0",
        **more,
    }
    words = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
    started = podman("run", "--detach", "--network", "host", *HELD, *LIMITS, "--user", "54321:0", *flags, *words, image)
    assert started.returncode == 0, started.stderr
    found = Container(started.stdout.strip(), port)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while found.get("/readyz") != 200:
            assert time.monotonic() < deadline, found.logs()
            time.sleep(0.2)
        yield found
    finally:
        podman("rm", "--force", "--time", "1", found.id)


def inside(image: str, *command: str) -> str:
    program, *arguments = command
    done = podman("run", "--rm", "--network", "none", *HELD, *LIMITS, "--entrypoint", program, image, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_any_user_serves_with_nothing_writable_and_its_own_health_check_says_so(container: Container):
    assert container.get("/v1/models") == 401
    assert container.get("/v1/models", "the-key") == 200
    probed = podman(
        "exec", container.id, "python", "-m", "gateway.probe", "--call", "--key", "env:ARRIERO_KEY", "--wait-s", "60"
    )
    assert (probed.returncode, probed.stderr) == (0, ""), probed.stderr + container.logs()
    assert podman("healthcheck", "run", container.id).returncode == 0


def test_sigterm_ends_it_with_0(container: Container):
    assert podman("stop", "--time", "60", container.id).returncode == 0
    found = json.loads(podman("inspect", container.id).stdout)[0]["State"]
    assert found["ExitCode"] == 0, container.logs()


async def post(container: Container, body: bytes) -> int:
    """The status of a call; 0 where there was none."""
    port = int(container.url.rpartition(":")[2])
    caller = Caller(*await asyncio.open_connection("127.0.0.1", port))

    async def send() -> None:
        with contextlib.suppress(ConnectionError):
            await caller.send(request(body, authorization="Bearer the-key"))

    sending = asyncio.create_task(send())
    try:
        return (await caller.answer()).status
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    finally:
        sending.cancel()
        caller.close()


async def test_e12_more_bodies_than_memory_holds_are_refused_and_nothing_is_killed(image: str):
    async def answering(connection: Connection) -> None:
        while await connection.request():
            connection.upstream.requests.clear()
            await connection.send(answer_bytes())

    async with upstream(answering) as cloud:
        with running(image, VLLM_URL=cloud.url, VLLM_MODEL="meta-llama/Llama-3.1-8B-Instruct") as container:
            large = chat("llama-3.1-8b", user="x" * 30_000_000)
            flood = await asyncio.gather(*(post(container, large) for _ in range(40)))
            assert set(flood) == {200, 503}, (flood, container.logs()[-2000:])
            for _ in range(5):
                assert await post(container, chat("llama-3.1-8b")) == 200
            deadline = time.monotonic() + PATIENCE_S
            while await post(container, large) != 200:  # what the flood took is given back
                assert time.monotonic() < deadline, container.logs()[-2000:]
            found = json.loads(podman("inspect", container.id).stdout)[0]["State"]
            assert (found["Status"], found["OOMKilled"]) == ("running", False)


FULLER = """
providers: {{leaf: {{type: litellm, url: '{url}', api_key: sandbox-vllm}}}}
routes: {{llama: {{deployments: [{{account: leaf, model: hosted_vllm/meta-llama/Llama-3.1-8B-Instruct}}]}}}}
keys: [{{name: a, key: the-key}}]
"""
FULLER_MAX_MB = 500


def mounted(folder: Path, config: str) -> str:
    """A config as a volume that any user may read."""
    (folder / "arriero.yaml").write_text(config)
    folder.chmod(0o755)
    return f"{folder}:/etc/arriero:ro"


@pytest.mark.soak
async def test_the_fuller_image_calls_through_litellm(tmp_path: Path):
    """Some minutes to build: only with `make soak`."""
    image = await asyncio.to_thread(built, "litellm")
    size_mb = int(podman("image", "inspect", "--format", "{{.Size}}", image).stdout) / 1e6
    print(f"{size_mb:.0f} MB")
    assert MAX_MB < size_mb <= FULLER_MAX_MB
    async with Sandbox(port=0, clouds=["vllm"]) as box:
        folder = mounted(tmp_path, FULLER.format(url=box.urls["vllm"]))
        with running(image, "--volume", folder, ARRIERO_CONFIG="/etc/arriero/arriero.yaml") as found:
            assert await post(found, chat("llama", max_tokens=4)) == 200
            assert len(box.calls()) == 1
    names = json.loads(inside(image, "python", "-c", LOOK))["names"]
    assert {"litellm", "azure-identity", "botocore", "arriero"} <= set(names)


def test_without_a_key_it_refuses_to_be_open(image: str):
    done = podman("run", "--rm", "--network", "none", *HELD, *LIMITS, image)
    assert done.returncode == 2
    assert "set ARRIERO_KEY" in done.stderr


def test_it_is_small_and_belongs_to_nobody(image: str):
    found = json.loads(podman("image", "inspect", image).stdout)[0]
    assert found["Size"] / 1e6 <= MAX_MB
    assert found["Config"]["User"] == "10001:0"
    assert found["Healthcheck"]["Test"][-1] == "gateway.probe"
    assert {"PYTHONSAFEPATH=1", "PYTHONNOUSERSITE=1"} <= set(found["Config"]["Env"])


LOOK = """
import importlib.util, json, os, shutil, stat, sys
from importlib.metadata import distributions
names = sorted(d.metadata["Name"].lower().replace("_", "-") for d in distributions())
tools = [t for t in ("pip", "gcc", "cc", "make", "git", "curl", "wget", "uv") if shutil.which(t)]
loose = [p for f, _, files in os.walk("/opt/arriero") for n in files if not os.path.islink(p := f + "/" + n)
         and os.stat(p).st_mode & stat.S_IWOTH]
pth = {}
for folder in sys.path:
    if os.path.isdir(folder):
        for name in os.listdir(folder):
            if name.endswith(".pth") and "import" in open(folder + "/" + name).read():
                pth[name] = folder
custom = [n for n in ("sitecustomize", "usercustomize") if importlib.util.find_spec(n)]
lacks = ("botocore", "azure.identity", "google.auth", "cryptography", "psycopg")
clouds = [n for n in lacks if not importlib.util.find_spec(n)]
setuid = [f + "/" + n for d in ("/usr", "/bin", "/sbin") for f, _, fs in os.walk(d) for n in fs
          if not os.path.islink(f + "/" + n) and os.stat(f + "/" + n).st_mode & 0o6000]
print(json.dumps({"names": names, "tools": tools, "loose": loose, "pth": pth, "custom": custom, "lacks": clouds,
                  "setuid": setuid, "sbom": json.load(open("/opt/arriero/sbom.cdx.json"))}))
"""


@pytest.fixture(scope="module")
def look(image: str) -> dict[str, object]:
    return dict(json.loads(inside(image, "python", "-c", LOOK)))


def test_nothing_lies_in_it_that_is_not_needed(look: dict[str, object]):
    for what in ("tools", "loose", "pth", "setuid", "lacks"):
        assert not look[what], what
    assert not {"pip", "setuptools", "wheel"} & set(look["names"])  # type: ignore[call-overload]


def test_its_packages_are_those_of_the_lock_and_its_bill_of_materials_names_them(look: dict[str, object]):
    lock = (ROOT / "requirements-image.lock").read_text()
    locked = {line.split("==")[0] for line in lock.splitlines() if "==" in line and not line.startswith((" ", "#"))}
    names = set(look["names"])  # type: ignore[call-overload]
    assert names - locked == {"arriero"}
    sbom = look["sbom"]
    assert isinstance(sbom, dict)
    assert sbom["bomFormat"] == "CycloneDX"
    purls = {found["purl"].partition("@")[0] for found in sbom["components"]}
    assert {f"pkg:pypi/{name}" for name in names} <= purls
    assert any(purl.startswith("pkg:deb/debian/") for purl in purls)


def test_every_line_of_the_image_locks_is_hashed():
    for name in ("requirements-image.lock", "requirements-litellm.lock"):
        blocks = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
        pins = [line for line in blocks if line.strip() and not line.startswith(("#", " "))]
        assert pins
        assert all("==" in line and "--hash=sha256:" in line for line in pins), name


def test_hadolint_has_nothing_to_say():
    done = run(tool("hadolint"), "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_build_sees_only_what_it_copies():
    """A file that the Dockerfile copies is let in by .dockerignore, and little else."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert copied == let_in
