"""When CI runs the cluster: what changed decides, and a machine that can have none says so and fails nothing."""

import shutil
import subprocess
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
