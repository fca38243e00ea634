"""The clouds in a box, once for all tests of the command in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.run import Sandbox

CLOUDS = ("vllm", "groq", "azure", "vertex", "databricks", "nim", "openai")
"""Those that need no extra package."""


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with Sandbox.in_thread(port=0, clouds=CLOUDS) as found:
        yield found


@pytest.fixture
def config(box: Sandbox, tmp_path: Path) -> Path:
    """A config file on the box."""
    file = tmp_path / "box.yaml"
    file.write_text(box.config_text())
    return file
