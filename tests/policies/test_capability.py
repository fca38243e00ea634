"""Capability: what the call uses against what the deployment has, and what is done about the difference."""

from typing import Any

import pytest

from gateway.types import Selection
from policies.capability import Capability
from tests.policies.cases import call, candidate, names

FLEET = [
    candidate("all", features=frozenset({"chat", "stream", "tools", "stream_tools", "json_schema", "stop"})),
    candidate("few", features=frozenset({"chat", "stream", "stop"}), stop_limit=4),
]
EMULATING = [
    candidate("helped", features=frozenset({"chat", "stop"}), stop_limit=4, emulates=frozenset({"n", "stop"})),
    candidate("all", features=frozenset({"chat", "stop", "n", "seed", "logprobs", "tools"})),
    candidate("bare", features=frozenset({"chat", "stop"}), stop_limit=4),
]


def chosen(missing: Any, *features: str, **said: Any) -> Selection:
    return Capability(missing=missing).apply(call(features=frozenset({"chat", *features}), **said), EMULATING, 0.0)


def test_who_lacks_a_feature_is_removed_and_told_which() -> None:
    asked = call(features=frozenset({"chat", "tools", "json_schema"}))
    selection = Capability().apply(asked, FLEET, 0.0)
    assert names(selection.kept) == ["all"]
    assert selection.removed == {"few": "lacks json_schema, tools"}


def test_more_stop_strings_than_a_deployment_takes_remove_it() -> None:
    def kept(count: int) -> list[str]:
        return names(Capability().apply(call(features=frozenset({"stop"}), stop_count=count), FLEET, 0.0).kept)

    assert kept(4) == ["all", "few"]
    assert kept(5) == ["all"]


def test_the_reason_for_too_many_stop_strings_has_the_numbers() -> None:
    selection = Capability().apply(call(stop_count=5), FLEET, 0.0)
    assert selection.removed == {"few": "5 stop strings, takes 4"}


def test_strict_removes_even_who_could_be_helped() -> None:
    assert names(chosen("strict", "n").kept) == ["all"]


@pytest.mark.parametrize("missing", ["emulate", "lossy"])
def test_who_can_be_helped_is_kept_in_its_place_and_named(missing: str) -> None:
    selection = chosen(missing, "n")
    assert names(selection.kept)[:2] == ["helped", "all"]
    assert selection.note.startswith("n emulated at helped")


def test_emulate_keeps_nobody_whose_lack_could_only_be_dropped() -> None:
    selection = chosen("emulate", "n", "seed")
    assert names(selection.kept) == ["all"]
    assert selection.removed == {"helped": "lacks seed", "bare": "lacks n, seed"}
    assert selection.note == ""


def test_lossy_keeps_who_is_not_told_of_it_and_says_so() -> None:
    selection = chosen("lossy", "n", "seed")
    assert names(selection.kept) == ["helped", "all", "bare"]
    assert selection.note == "n emulated at helped; seed dropped at helped, bare; n dropped at bare"


def test_tools_are_never_dropped() -> None:
    assert chosen("lossy", "tools").removed == {"helped": "lacks tools", "bare": "lacks tools"}


@pytest.mark.parametrize(
    ("missing", "kept"), [("strict", ["all"]), ("emulate", ["helped", "all"]), ("lossy", ["helped", "all", "bare"])]
)
def test_more_stop_strings_than_are_taken_are_helped_like_a_feature(missing: str, kept: list[str]) -> None:
    assert names(chosen(missing, "stop", stop_count=5).kept) == kept


def test_only_a_chat_is_stood_in_for() -> None:
    asked = call(features=frozenset({"n"}), endpoint="completions")
    assert names(Capability(missing="emulate").apply(asked, EMULATING, 0.0).kept) == ["all"]


def test_who_needs_no_help_is_not_named() -> None:
    assert chosen("lossy").note == ""
