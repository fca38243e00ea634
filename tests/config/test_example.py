"""arriero.example.yaml shows all that this version offers, and loads."""

import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from gateway.account import Account
from gateway.app import Gateway
from gateway.config import document as config
from gateway.config import loading, plugins, yaml_file
from gateway.config.document import LATER
from gateway.config.schema import schema
from gateway.transport.connection import Timeouts

EXAMPLE = Path(__file__).parents[2] / "arriero.example.yaml"
TEXT = EXAMPLE.read_text()


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The example with its variables set and its files at another place."""
    for name in re.findall(r"env:([A-Z0-9_]+)", TEXT):
        monkeypatch.setenv(name, f"value-of-{name}")

    def written(match: re.Match[str]) -> str:
        file = tmp_path / Path(match[1]).name
        file.write_text(f"secret-of-{file.name}")
        return f"file:{file}"

    return re.sub(r"file:(/[^\s},]+)", written, TEXT)


def test_it_loads_and_every_route_has_somebody(example: str):
    gateway = Gateway(loading.parse(example))
    assert set(gateway.fleet.routes) == {"llama-3.1-8b", "llama-3.1-70b", "fast", "canary", "legacy"}
    assert all(route.lanes for route in gateway.fleet.routes.values())
    assert gateway.keyring.names() == ["team-a", "batch"]


def test_its_schema_takes_it():
    jsonschema.Draft202012Validator(schema()).validate(yaml_file.parse(TEXT))


def test_what_it_calls_defaults_are_the_defaults(example: str):
    found = loading.parse(example)
    assert found.server == config.ServerConfig()
    assert found.attempts == config.AttemptsConfig()
    shown = re.search(r"these are the defaults: (\{.*\})", TEXT)
    assert shown is not None
    assert msgspec.convert(yaml_file.parse(shown[1]), Timeouts) == Timeouts()


@pytest.mark.parametrize("kind", ["providers", "policies"])
def test_it_shows_every_plugin(kind: plugins.Kind):
    for name in plugins.names(kind):
        assert re.search(rf"\b{name}\b", TEXT), name


@pytest.mark.parametrize(
    "section",
    [config.RouteConfig, config.DeploymentConfig, config.PriceConfig, config.KeyConfig, config.TeamConfig,
     config.LimitsConfig, config.BudgetConfig, config.ServerConfig,
     config.AttemptsConfig, config.AdminConfig, config.AdminToken, config.BaselineConfig,
     config.StoreConfig, config.TelemetryConfig, Account, Timeouts],
    ids=lambda section: section.__name__,
)  # fmt: skip
def test_it_shows_every_word_of(section: type):
    for field in msgspec.structs.fields(section):
        assert re.search(rf"\b{field.encode_name}\b", TEXT), field.encode_name


def test_it_shows_nothing_of_a_later_version():
    document = yaml_file.parse(TEXT)
    assert isinstance(document, dict)
    words = {word for route in document["routes"].values() for word in route}
    assert not words & set(LATER)
