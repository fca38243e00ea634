"""What `helm install` says at its end: the next command, with the names of this release and the key that it needs."""

import shutil
from pathlib import Path

import pytest

from tests.kube.tools import CHART, MINORS, run, tool, values_files

FILES = {path.stem: path for path in values_files()}
SECRET = "export ARRIERO_KEY=$(kubectl get secret -n llama {} -o jsonpath='{{.data.{}}}' | base64 -d)"


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as one more object: `helm template` shows none, and `helm install` wants a cluster."""
    folder = tmp_path_factory.mktemp("notes") / "arriero"
    shutil.copytree(CHART, folder)
    shutil.move(folder / "templates" / "NOTES.txt", folder / "notes.txt")
    (folder / "templates" / "notes.yaml").write_text('notes: |\n{{ tpl (.Files.Get "notes.txt") . | indent 2 }}\n')
    return folder


def notes(chart: Path, file: Path) -> str:
    words = ["--namespace", "llama", "--kube-version", MINORS[-1], "--values", file, "-s", "templates/notes.yaml"]
    done = run(tool("helm"), "template", "arriero", chart, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", FILES)
def test_they_name_the_next_command(chart: Path, name: str):
    said = notes(chart, FILES[name])
    assert "no value" not in said
    assert "kubectl port-forward -n llama svc/arriero 8080:" in said
    assert "helm test arriero -n llama" in said


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nothing", SECRET.format("arriero-key", "ARRIERO_KEY")),
        ("credentials", SECRET.format("gateway-key", "KEY")),
        ("small", SECRET.format("arriero-clouds", "TEAM_A_KEY")),
        ("production", SECRET.format("arriero-secrets", "TEAM_A_KEY")),
        ("external-secrets", "export ARRIERO_KEY=…   # what file:/etc/arriero/secrets/A_KEY holds"),
        ("numbers", 'curl -H "authorization: Bearer any"'),
    ],
)
def test_they_say_where_the_key_lies(chart: Path, name: str, line: str):
    assert line in notes(chart, FILES[name])


def test_they_call_a_demo_a_demo_and_nothing_else(chart: Path):
    assert {name for name in FILES if "DEMO" in notes(chart, FILES[name])} >= {"nothing", "ingress-secret"}
    assert "DEMO" not in notes(chart, FILES["credentials"]) + notes(chart, FILES["small"])


def test_the_next_step_forgets_nothing_that_was_set(chart: Path):
    """Helm's default with a new values file is to forget the registry of the image."""
    step = "helm upgrade arriero helm/arriero -n llama --reset-then-reuse-values --values my-values.yaml"
    assert step in notes(chart, FILES["nothing"])


def test_they_warn_of_one_pod_and_of_a_ledger_that_goes_with_it(chart: Path):
    small, production = notes(chart, FILES["small"]), notes(chart, FILES["production"])
    assert "Set replicaCount to 2 or more" in small
    assert "Set replicaCount" not in production
    assert "The ledger lies in each pod and goes with it" in small
