"""Context window: how long the call is against what the deployment can take."""

import math

import pytest

from policies.context_window import ContextWindow
from tests.policies.cases import call, candidate, names

FLEET = [
    candidate("large", context_tokens=131_072, max_output_tokens=8_192),
    candidate("small", context_tokens=8_192, max_output_tokens=2_048),
    candidate("untold"),
]


def test_the_prompt_and_the_output_asked_for_must_fit_the_context() -> None:
    asked = call(prompt_tokens=7_000, max_output_tokens=1_193)
    selection = ContextWindow().apply(asked, FLEET, 0.0)
    assert names(selection.kept) == ["large", "untold"]
    assert selection.removed == {"small": "needs 8,193 tokens, has 8,192"}
    assert names(ContextWindow().apply(call(prompt_tokens=7_000, max_output_tokens=1_192), FLEET, 0.0).kept) == names(
        FLEET
    )


def test_the_output_asked_for_must_fit_what_a_deployment_gives() -> None:
    selection = ContextWindow().apply(call(prompt_tokens=10, max_output_tokens=4_096), FLEET, 0.0)
    assert selection.removed == {"small": "asked 4,096 output tokens, gives 2,048"}


def test_choices_do_not_add_up_as_each_has_the_window_for_itself() -> None:
    asked = call(prompt_tokens=7_000, max_output_tokens=1_000, choices=8)
    assert names(ContextWindow().apply(asked, FLEET, 0.0).kept) == names(FLEET)


def test_output_that_was_not_asked_for_counts_as_none() -> None:
    assert names(ContextWindow().apply(call(prompt_tokens=8_192), FLEET, 0.0).kept) == names(FLEET)


def test_a_margin_adds_a_share_of_the_prompt() -> None:
    asked = call(prompt_tokens=7_500)
    assert "small" in names(ContextWindow(margin=0.09).apply(asked, FLEET, 0.0).kept)
    assert "small" not in names(ContextWindow(margin=0.10).apply(asked, FLEET, 0.0).kept)


@pytest.mark.parametrize("margin", [-0.1, math.inf, math.nan])
def test_an_impossible_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin must be a share"):
        ContextWindow(margin=margin)
