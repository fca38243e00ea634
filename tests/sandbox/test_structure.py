"""The box stays an independent judge: it shares no code with the gateway, and every cloud keeps the contract."""

import ast
import sys
from pathlib import Path

import pytest

from sandbox.cloud import Cloud, clouds
from tests.sandbox.wire import OPENAI_SHAPED

FOLDER = Path(__file__).parent.parent.parent / "sandbox"
ALLOWED = {"h11", "msgspec", "sandbox", "uvloop", "yaml"}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    plain = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    return plain | {str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_it_imports_nothing_of_the_gateway() -> None:
    files = sorted(FOLDER.glob("*.py"))
    strangers = {path.name: imported(path) - set(sys.stdlib_module_names) - ALLOWED for path in files}
    assert {name: found for name, found in strangers.items() if found} == {}


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
    frames = cloud.error_frames(cloud.failure(500).body, True)
    assert frames
    assert all(frame.endswith(b"\n\n") or name not in OPENAI_SHAPED for frame in frames)
