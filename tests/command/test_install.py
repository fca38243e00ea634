"""What a user installs: the wheel with nothing but requirements.lock beside it, and what `make install` leaves."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import pytest

from tests import process
from tests.needs import need

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.lock"
CACHE = ROOT / ".cache"
UNWANTED = shutil.ignore_patterns(".*", "node_modules", "__pycache__", "build", "dist", "*.egg-info", "tests", "bench")


def pip(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def python() -> Path:
    """The Python of an environment that holds requirements.lock and nothing else; made once for each lock."""
    stamp = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = CACHE / f"locked-{stamp}"
    found, complete = folder / "bin" / "python", folder / "complete"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "locked.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            for old in CACHE.glob("locked-*"):
                shutil.rmtree(old)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            done = pip(found, "install", "--require-hashes", "-r", LOCK)
            need("the packages of requirements.lock", done.returncode == 0)
            complete.touch()
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project without what is not its own, so that building leaves no trace in it."""
    folder = tmp_path_factory.mktemp("tree") / "project"
    shutil.copytree(ROOT, folder, ignore=UNWANTED)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    done = pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tree / "out", tree)
    assert done.returncode == 0, done.stderr
    (found,) = (tree / "out").glob("*.whl")
    return found


@pytest.fixture
def installed(python: Path, wheel: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The command of the wheel, installed by itself, and the environment it needs."""
    site = tmp_path / "site"
    done = pip(python, "install", "--no-deps", "--no-index", "--target", site, wheel)
    assert done.returncode == 0, done.stderr
    return site / "bin" / "arriero", {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(wheel: Path, tree: Path):
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = ("gateway", "providers", "policies", "sandbox")
    assert packaged == {str(path.relative_to(tree)) for name in folders for path in (tree / name).rglob("*.*")}


@pytest.mark.timeout(600)
def test_the_wheel_alone_serves_the_sandbox_from_another_folder(installed: tuple[Path, dict[str, str]], tmp_path: Path):
    arriero, env = installed
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with process.serving(folder=folder, env=env, arriero=arriero) as gateway:
        assert "Config: the built-in sandbox\n" in gateway.screen
        assert "is left out" not in gateway.screen  # the lock holds what every cloud needs
        body = {"model": "llama-3.1-8b", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        request = urllib.request.Request(
            f"{gateway.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=process.PATIENCE_S) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 4
        assert gateway.stop() == 0
    assert list(folder.iterdir()) == []
    example = process.run("models", "--cloud", "groq", folder=folder, env=env, arriero=arriero)
    assert (example.code, example.out.splitlines()[0]) == (0, "groq")


@pytest.mark.timeout(600)
def test_make_install_makes_the_environment_once(python: Path, tree: Path):
    need("make", shutil.which("make") is not None)
    venv = tree / ".venv"
    shutil.copytree(python.parents[1], venv, symlinks=True)  # what is in it already is not fetched again
    done = subprocess.run(
        ["make", "-s", "install"],
        cwd=tree,
        capture_output=True,
        text=True,
        env=process.environment({"HOME": os.environ["HOME"]}),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "Setting up .venv (once)" in done.stderr
    assert process.run("models", "--cloud", "groq", folder=tree, arriero=venv / "bin" / "arriero").code == 0
    again = subprocess.run(["make", "-s", "install"], cwd=tree, capture_output=True, text=True)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    later = (venv / ".installed").stat().st_mtime + 10
    os.utime(tree / "requirements.lock", (later, later))
    assert subprocess.run(["make", "-q", "install"], cwd=tree).returncode == 1
