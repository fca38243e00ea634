"""Sensitivity: who may see a call's data."""

from typing import Any

import pytest

from gateway.config import loading
from gateway.errors import ConfigError
from policies.sensitivity import Sensitivity
from tests.policies.cases import call, candidate, names

FLEET = [
    candidate("own", trust="private"),
    candidate("aws-70b", account="aws", trust="private"),
    candidate("groq", trust="public"),
    candidate("other"),
]


def kept(options: Any, level: str | None) -> list[str]:
    labels = {} if level is None else {"sensitivity": level}
    return names(Sensitivity.from_options(options).apply(call(labels=labels), FLEET, 0.0).kept)


def test_a_level_lists_accounts_and_trust_classes() -> None:
    options = {"restricted": ["own"], "internal": ["trust:private"], "mixed": ["groq", "trust:private"]}
    assert kept(options, "restricted") == ["own"]
    assert kept(options, "internal") == ["own", "aws-70b"]
    assert kept(options, "mixed") == ["own", "aws-70b", "groq"]


def test_a_level_that_is_not_listed_goes_nowhere_unless_a_star_stands_for_it() -> None:
    assert kept({"restricted": ["own"]}, "secret") == []
    assert kept({"restricted": ["own"], "*": ["trust:private"]}, "secret") == ["own", "aws-70b"]
    assert kept({"public": ["*"]}, "public") == names(FLEET)


def test_a_call_without_the_label_may_go_anywhere_unless_it_is_required() -> None:
    assert kept({"restricted": ["own"]}, None) == names(FLEET)
    assert kept({"restricted": ["own"], "required": True}, None) == []


def test_the_reason_names_the_account_and_its_trust() -> None:
    selection = Sensitivity.from_options({"restricted": ["own"]}).apply(
        call(labels={"sensitivity": "restricted"}), FLEET, 0.0
    )
    assert selection.removed["groq"] == "restricted data, account groq of trust public"
    assert selection.removed["other"] == "restricted data, account other of trust unknown"


def test_an_account_is_not_taken_for_a_part_of_another_name() -> None:
    assert kept({"restricted": ["ow", "aws-70b", "private"]}, "restricted") == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "at least one level"),
        (None, "Expected `object`"),
        ({"restricted": "own"}, "restricted must be a list"),
        ({"restricted": ["trust:"]}, "empty name"),
        ({"restricted": ["own"], "required": "yes"}, "bool"),
        ({"restricted": [1]}, "str"),
        ({"restricted": ["own"], "label": ""}, "must name a label"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sensitivity.from_options(options)


def test_the_config_writes_levels_beside_the_other_options() -> None:
    word, policy = loading.policy({"sensitivity": {"restricted": ["own"], "label": "class"}}, "policies[0]")
    assert word == "sensitivity"
    assert policy == Sensitivity(levels={"restricted": ("own",)}, label="class")
    with pytest.raises(ConfigError):
        loading.policy("sensitivity", "policies[0]")
