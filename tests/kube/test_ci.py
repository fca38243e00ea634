"""When CI runs the cluster: what changed decides; a machine that can have none, or not in time, fails nothing."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kube.tools import ROOT
from tests.process import environment

AUTHOR = {f"GIT_{who}_{what}": "x@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
WANTED = "THE CLUSTER RUN WAS SKIPPED, nothing of it is proven: this machine makes no namespaces"


def git(folder: Path, *words: str) -> None:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, env=environment(AUTHOR))
    assert done.returncode == 0, done.stderr


def commit(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            file.write("more\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Change something")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clean clone of a project whose machine makes no namespaces."""
    upstream = tmp_path / "upstream"
    (upstream / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "cluster.sh", upstream / ".ci")
    machine = upstream / "tests" / "kube" / "cluster" / "possible.sh"
    machine.parent.mkdir(parents=True)
    machine.write_text("#!/bin/sh\necho this machine makes no namespaces >&2\nexit 1\n")
    machine.chmod(0o755)
    git(upstream, "init", "-q", "-b", "main")
    commit(upstream, "README.md", "helm/arriero/values.yaml", "gateway/serve.py")
    git(tmp_path, "clone", "-q", str(upstream), "clone")
    return tmp_path / "clone"


def said(clone: Path, **env: str) -> str:
    done = subprocess.run([clone / ".ci" / "cluster.sh"], capture_output=True, text=True, env=environment(env))
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_where_it_cannot_be_known_what_changed_it_runs(clone: Path):
    assert WANTED in said(clone)


@pytest.mark.parametrize("file", ["helm/arriero/values.yaml", "gateway/serve.py", "Dockerfile", "gateway/vitals/x.py"])
def test_it_runs_when_the_chart_the_image_or_the_shutdown_changed(clone: Path, file: str):
    commit(clone, file)
    commit(clone, "README.md")
    assert WANTED in said(clone)


def test_it_does_not_run_for_what_it_proves_nothing_of(clone: Path):
    commit(clone, "README.md", "providers/groq.py", "gateway/servery.py")
    assert "No cluster run" in said(clone)
    assert WANTED in said(clone, ARRIERO_CLUSTER="always")


def test_it_can_be_left_out_by_hand_and_says_so(clone: Path):
    assert "SKIPPED, nothing of it is proven: ARRIERO_CLUSTER=never" in said(clone, ARRIERO_CLUSTER="never")


def test_what_is_the_shutdown_is_there():
    """A file that is moved or renamed must not slip out of the list."""
    (folders, names), *more = re.findall(
        r"\(\(([a-z|]+)\)/.*?\(([a-z|]+)\)\\.py", (ROOT / ".ci" / "cluster.sh").read_text()
    )
    found = {path.stem for path in (ROOT / "gateway").rglob("*.py")}
    assert more == []
    assert set(names.split("|")) - found == set()
    assert all(any((ROOT / "gateway").glob(f"{folder}*")) for folder in folders.split("|"))


CLUSTER = ROOT / "tests" / "kube" / "cluster"


def ended(after_s: float, *command: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What must be over so soon."""
    words = {**env, "CLUSTER_ENDS": f"{time.time() + after_s:.0f}"}
    return subprocess.run(command, cwd=ROOT, env=environment(words), capture_output=True, text=True, timeout=100)


def scenarios_s() -> int:
    (found,) = re.findall(r"^SCENARIOS_S=(\d+)", (CLUSTER / "run.sh").read_text(), re.MULTILINE)
    return int(found)


@pytest.fixture
def able() -> None:
    possible = subprocess.run([CLUSTER / "possible.sh"], capture_output=True, text=True)
    if possible.returncode:
        pytest.skip(f"as .ci/cluster.sh would: {possible.stderr.strip()}")  # on CI, too


@pytest.mark.usefixtures("able")
def test_a_build_that_would_take_too_long_is_ended(tmp_path: Path):
    """The real one: nothing is built yet in its folder."""
    began = time.monotonic()
    done = ended(scenarios_s() + 2, CLUSTER / "run.sh", ARRIERO_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 75, done.stderr
    assert "OUT OF TIME: " in done.stderr
    assert time.monotonic() - began < 60
    assert not (tmp_path / "cache" / "bin" / "kube").exists()


@pytest.mark.usefixtures("able")
def test_a_run_that_is_late_already_builds_nothing_and_fails_nothing():
    env = environment({"ARRIERO_CI_BEGAN": f"{time.time() - 3600:.0f}", "ARRIERO_CLUSTER": "always"})
    done = subprocess.run([ROOT / ".ci" / "cluster.sh"], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "OUT OF TIME: " in done.stderr
    assert "THE CLUSTER RUN WAS SKIPPED, nothing of it is proven: the cluster came too late" in done.stderr


def test_no_scenario_begins_that_could_outlast_the_hour():
    """Without a cluster: it asks for none."""
    words = ("-m", "pytest", "-p", "no:cacheprovider", "tests/kube/cluster/scenarios.py")
    done = ended(200, sys.executable, *words)
    assert done.returncode == 75, done.stdout + done.stderr
    assert "OUT OF TIME: test_a_first_run_needs_no_values" in done.stdout
