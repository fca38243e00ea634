"""What the documents say is true: links lead somewhere, configs are taken, the code shown is the code."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import loading, plugins, yaml_file
from gateway.metrics import READINGS, Metrics

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in re.finditer(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1]


SECTIONS = {"providers", "routes", "keys", "teams", "server", "admin", "store", "telemetry", "attempts", "baseline"}
POSTGRES = "postgresql://arriero:secret@db/arriero"
URLS = {"REDIS_URL": "redis://redis:6379", "LEDGER_URL": POSTGRES, "LEDGER_URL_OF_POSTGRESQL": POSTGRES}
"""What an address must look like where an example has it from the environment."""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_config_shown_is_taken(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        for name in re.findall(r"env:(\w+)", text):
            monkeypatch.setenv(name, URLS.get(name, f"the-{name}-of-thirty-two-letters-at-least"))
        for path in re.findall(r"file:(/[\w./-]+)", text):
            file = tmp_path / Path(path).name
            file.write_text("secret")
            text = text.replace(f"file:{path}", f"file:{file}")
        found = yaml_file.parse(text)
        if not isinstance(found, dict) or not set(found) & SECTIONS:
            continue
        found.setdefault("providers", {"x": {"type": "openai"}})
        found.setdefault("routes", {"x": {"deployments": [{"account": next(iter(found["providers"])), "model": "m"}]}})
        loading.build(found)


def test_every_policy_is_explained() -> None:
    page = (ROOT / "docs" / "policies.md").read_text()
    missing = [name for name in plugins.names("policies") if f"{name}" not in page]
    assert not missing


def test_every_provider_is_explained() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = [name for name in plugins.names("providers") if f"`{name}`" not in page]
    assert not missing


def test_every_metric_is_explained() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    names = [family.name for family in Metrics().registry.collect()]
    for name, _, _ in READINGS:
        assert name.removeprefix("arriero_deployment_") in page
    for name in names:
        assert name in page, name


def test_the_code_shown_to_who_extends_is_the_code() -> None:
    """Every line of the walk through a file stands in that file."""
    shown = list(blocks(ROOT / "docs" / "extending.md", "python"))
    sources = ["policies/tier.py", "providers/groq.py"]
    assert len(shown) == len(sources)
    for text, source in zip(shown, sources, strict=True):
        code = (ROOT / source).read_text()
        assert text.strip() in code, source
