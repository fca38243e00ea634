"""Capability: what the call uses against what the deployment has."""

import pytest

from policies.capability import Capability
from tests.policies.cases import call, candidate, names

FLEET = [
    candidate("all", features=frozenset({"chat", "stream", "tools", "stream_tools", "json_schema", "stop"})),
    candidate("few", features=frozenset({"chat", "stream", "stop"}), stop_limit=4),
]


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


@pytest.mark.parametrize("missing", ["emulate", "lossy"])
def test_emulating_and_dropping_are_refused_as_not_offered(missing: str) -> None:
    with pytest.raises(ValueError, match=f"missing: {missing} is not offered yet"):
        Capability(missing=missing)  # type: ignore[arg-type]
