"""The box stays an independent judge: it shares no code with the gateway, and every file of it keeps to its budget."""

import ast
from pathlib import Path

import pytest

from sandbox.cloud import Cloud, clouds

FOLDER = Path(__file__).parent.parent.parent / "sandbox"
FILES = sorted(FOLDER.glob("*.py"))
ALLOWED = {"h11", "msgspec", "sandbox", "uvloop", "yaml"}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    plain = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    return plain | {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_imports_nothing_of_the_gateway(path: Path) -> None:
    import sys

    assert imported(path) - set(sys.stdlib_module_names) <= ALLOWED


@pytest.mark.parametrize("name", clouds())
def test_every_cloud_keeps_the_contract(name: str) -> None:
    cloud: Cloud = clouds()[name]
    assert (FOLDER / f"{name}.py").exists()
    assert cloud.demo
    assert cloud.deployments
    assert {fields["model"] for fields in cloud.deployments.values()} <= cloud.models.keys()
    assert cloud.url("http://h:1").startswith("http://h:1")
    assert cloud.account("http://h:1")["type"] == name
    assert min(cloud.pace) > 0
    for status in (400, 429, 500, 503):
        refusal = cloud.failure(status)
        assert (refusal.status, bool(refusal.body)) == (status, True)
    assert all(frame.endswith(b"\n\n") for frame in cloud.error_frames(cloud.failure(500).body, True))
