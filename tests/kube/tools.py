"""The programs that the chart's tests use: where tests/system.sh puts them, and how helm is called."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.needs import need

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "arriero"
CACHE = Path(os.environ.get("ARRIERO_CACHE") or Path.home() / ".cache" / "arriero-kube")
MINORS = ("1.30", "1.33", "1.36")
"""The oldest Kubernetes that the chart takes, one between, and the one that the cluster of `make cluster` runs."""
FOLDERS = (CACHE / "bin", CACHE / "linters" / "bin", CACHE / "prom" / "usr" / "bin")


def tool(name: str) -> str:
    """Where a program is; a loud skip without it, a failure on CI."""
    found = shutil.which(name, path=os.pathsep.join([*map(str, FOLDERS), os.environ["PATH"]]))
    need(f"{name} (tests/system.sh kube installs it)", found is not None)
    assert found is not None
    return found


def run(*command: str | Path, cwd: Path = ROOT, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """A program to its end."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)


def template(*arguments: str | Path, minor: str = MINORS[-1]) -> subprocess.CompletedProcess[str]:
    """`helm template` of a release named arriero."""
    return run(tool("helm"), "template", "arriero", CHART, "--namespace", "llama", "--kube-version", minor, *arguments)


def readme() -> str:
    """The chart's README.md, made from values.yaml."""
    done = run(tool("helm-docs"), "--chart-search-root", CHART, "--dry-run")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() + "\n"


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of rendered YAML."""
    return [found for found in yaml.safe_load_all(text) if found]


def values_files() -> Sequence[Path]:
    """Every values file that is rendered: those for people, and those for the tests alone."""
    return sorted([*(ROOT / "helm" / "values").glob("*.yaml"), *(ROOT / "tests" / "kube" / "values").glob("*.yaml")])


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
