"""`arriero schema`: it takes what the loader takes and refuses what the loader refuses, as far as a schema can see."""

import json

import jsonschema
import pytest

from gateway.config import plugins, yaml_file
from gateway.config.schema import schema
from gateway.errors import ConfigError
from sandbox.config import config_text
from tests.config import test_refusals as refusals

VALIDATOR = jsonschema.Draft202012Validator(schema())

UNSEEN = (
    "names 'a' twice",
    "'proxy'",
    "'ledger' must be",
    "'redis' ",
    "'peppers' must",
    "is the same key as",
    "stands twice",
    "already",
    "environment variable",
    "cannot be read",
    "is empty",
    "no header can carry",
    "holds no certificates",
    "unknown account",
    "unknown team",
    "cannot infer",
    "'expires' must",
    "fixes 'region'",
    "limits nothing",
    "'usd'",
    "unknown deployment",
    "unknown priced model",
    "unknown weights",
    "unknown feature",
    "give either every word a sign",
    "has digits below",
    "neither the route's name",
    "the catalogue has no row",
    "`enabled: false`",
    "needs one of 'api_key', 'token' and 'entra'",
    "holds an empty name",
    "consecutive must be",
    "keep must be",
    "needs at least one level",
    "restricted must be",
    "'project' is missing",
    "'url' is missing",
    "99999",
    "not nan",
    "NaN",
    "is more than 1,000,000",
)
"""What is wrong only in the light of other places, of files and variables, or of a class's own arithmetic."""


def taken(text: str) -> bool:
    return bool(VALIDATOR.is_valid(yaml_file.parse(text)))


def test_it_is_a_schema_and_plain_json():
    jsonschema.Draft202012Validator.check_schema(json.loads(json.dumps(schema())))


def test_it_knows_every_provider_and_policy():
    text = json.dumps(schema())
    for kind in ("providers", "policies"):
        for name in plugins.names(kind):
            assert f'{{"const": "{name}"}}' in text


def test_the_sandbox_config_is_taken():
    VALIDATOR.validate(yaml_file.parse(config_text(9100)))


@pytest.mark.parametrize("text", refusals.RIGHT, ids=lambda part: part[:60])
def test_what_the_loader_takes_is_taken(text: str):
    VALIDATOR.validate(yaml_file.parse(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (text, words)
        for text, words in (
            *refusals.SECTIONS,
            *refusals.KEYS,
            *refusals.ACCOUNTS,
            *refusals.DEPLOYMENTS,
            *refusals.ROUTES,
            *refusals.POLICIES,
        )
        if not any(unseen in words + text for unseen in UNSEEN)
    ],
    ids=lambda part: part[:60],
)
def test_what_the_loader_refuses_for_its_form_is_refused(text: str, words: str):
    assert not taken(text), words


def test_yaml_that_is_none_never_gets_that_far():
    with pytest.raises(ConfigError):
        taken("a: [")
