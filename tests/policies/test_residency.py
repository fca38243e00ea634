"""Residency: the region that a label asks for."""

import pytest

from policies.residency import Residency
from tests.policies.cases import call, candidate, names

EVERYWHERE = [
    candidate("own", region="eu"),
    candidate("ireland", region="eu-west-1"),
    candidate("sweden", region="swedencentral"),
    candidate("oregon", region="us-west-2"),
    candidate("somewhere"),
]


def test_a_label_keeps_its_region_and_the_cloud_regions_that_begin_with_it() -> None:
    selection = Residency().apply(call(labels={"region": "eu"}), EVERYWHERE, 0.0)
    assert names(selection.kept) == ["own", "ireland"]
    assert selection.removed == {
        "sweden": "region swedencentral, asked eu",
        "oregon": "region us-west-2, asked eu",
        "somewhere": "region unknown, asked eu",
    }


def test_a_map_says_exactly_which_regions_a_value_stands_for() -> None:
    residency = Residency(map={"eu": ("eu", "swedencentral")})
    assert names(residency.apply(call(labels={"region": "eu"}), EVERYWHERE, 0.0).kept) == ["own", "sweden"]
    assert names(residency.apply(call(labels={"region": "us"}), EVERYWHERE, 0.0).kept) == ["oregon"]


def test_a_call_without_the_label_may_go_anywhere_unless_it_is_required() -> None:
    assert names(Residency().apply(call(), EVERYWHERE, 0.0).kept) == names(EVERYWHERE)
    required = Residency(required=True).apply(call(), EVERYWHERE, 0.0)
    assert not required.kept
    assert set(required.removed.values()) == {"no label region, which is required"}


def test_an_empty_or_longer_name_does_not_open_other_regions() -> None:
    for asked in ("", "e", "eu-west", "EU", "eu-"):
        kept = Residency().apply(call(labels={"region": asked}), EVERYWHERE, 0.0).kept
        assert names(kept) == (["ireland"] if asked == "eu-west" else [])


def test_another_label_may_hold_the_region() -> None:
    residency = Residency(label="data-zone")
    assert names(residency.apply(call(labels={"data-zone": "us"}), EVERYWHERE, 0.0).kept) == ["oregon"]
    assert len(residency.apply(call(labels={"region": "us"}), EVERYWHERE, 0.0).kept) == 5


def test_a_map_that_allows_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="no deployment could ever serve it"):
        Residency(map={"eu": ()})
    with pytest.raises(ValueError, match="name a label"):
        Residency(label="")
