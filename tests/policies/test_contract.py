"""What every policy keeps, whatever it is for. A new file in policies/ is held to this unasked."""

import ast
import math
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from gateway.config import loading
from gateway.errors import ConfigError
from gateway.types import Call, Candidate, Frozen, Policy
from tests.policies.cases import CALLS, NOWS, call, candidates, names

WORDS = sorted(module.name for module in pkgutil.iter_modules(policies.__path__) if not module.name.startswith("_"))
FOLDER = Path(policies.__path__[0])

MORE_OPTIONS: dict[str, list[Any]] = {
    "residency": [{"required": True}, {"map": {"eu": ["eu-west-1"], "us": ["us", "us-east-1"]}}],
    "sensitivity": [{"*": ["trust:private"], "restricted": ["own"], "required": True}, {"internal": ["*"]}],
    "capability": [{"missing": "emulate"}, {"missing": "lossy"}],
    "context_window": [{"margin": 0.1}],
    "breaker": [{"consecutive": 1, "success": 1.0, "min_recent": 0.1}, {"success": 0.0}],
    "headroom": [{"keep": 0.0}, {"keep": 0.9, "return_s": 0}, {"keep": 0.2, "drain": 1, "queue_full": 1}],
    "budget": [
        {"deployment": "d1", "usd": "0.000000001", "per": "month"},
        {"account": "own", "usd": 0, "per": "total"},
    ],
    "lowest_cost": [{"tolerance": 0.1, "own_gpus": "marginal"}],
    "lowest_latency": [{"metric": "total", "percentile": "p95", "tolerance": 0, "explore": 1}, {"explore": 0}],
    "objective": [
        {"minimize": "latency", "subject_to": {"cost_usd": 0.001, "error_rate": 0.02}, "explore": 1},
        {"subject_to": {"ttft_p50_s": 0.5, "total_p95_s": 2, "tpot_p95_s": 0.1, "cost_usd": 5}, "own_gpus": "marginal"},
    ],
    "sticky": [{"by": "prefix"}, {"load_factor": 1}],
}


def load(word: str, options: Any) -> Policy:
    return loading.policy({word: options}, "policies[0]")[1]


def example(word: str) -> Any:
    """The options a policy is shown with: its EXAMPLE, or none at all."""
    module = __import__(f"policies.{word}", fromlist=[word])
    return getattr(getattr(module, camel_case(word)), "EXAMPLE", {})


def camel_case(word: str) -> str:
    return "".join(part.capitalize() for part in word.split("_"))


CASES = [
    pytest.param(load(word, options), id=f"{word}-{number}")
    for word in WORDS
    for number, options in enumerate([example(word), *MORE_OPTIONS.get(word, [])])
]
every_policy = pytest.mark.parametrize("policy", CASES)
thorough = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@every_policy
@thorough
@given(asked=CALLS, given_=candidates(), now=NOWS)
def test_a_policy_is_pure_and_accounts_for_everybody(
    policy: Policy, asked: Call, given_: list[Candidate], now: float
) -> None:
    before = msgspec.structs.asdict(asked), list(given_)
    selection = policy.apply(asked, given_, now)
    kept = names(selection.kept)

    assert policy.apply(asked, given_, now) == selection, "the same input gives the same answer"
    assert (msgspec.structs.asdict(asked), given_) == before, "the input is not changed"
    assert len(set(kept)) == len(kept), "nobody is doubled"
    assert all(any(c is g for g in given_) for c in selection.kept), "nobody is invented"
    assert set(kept) | set(selection.removed) == set(names(given_)), "nobody is forgotten"
    assert not set(kept) & set(selection.removed), "nobody is both kept and removed"
    for text in [*selection.removed.values(), *([selection.note] if selection.note else [])]:
        assert text.strip(), "who is removed is told why"
        assert len(text) <= 120
        assert "\n" not in text


@every_policy
@thorough
@given(asked=CALLS, given_=candidates(), now=NOWS, data=st.data())
def test_who_is_kept_does_not_depend_on_the_order_given_where_that_is_claimed(
    policy: Policy, asked: Call, given_: list[Candidate], now: float, data: st.DataObject
) -> None:
    if not getattr(policy, "order_independent", False):
        return
    shuffled = data.draw(st.permutations(given_))
    selection, other = policy.apply(asked, given_, now), policy.apply(asked, shuffled, now)
    assert set(names(selection.kept)) == set(names(other.kept))
    assert selection.removed == other.removed


@every_policy
@thorough
@given(asked=CALLS, given_=candidates(), now=NOWS)
def test_policies_that_remove_keep_the_order_and_policies_that_order_keep_everybody(
    policy: Policy, asked: Call, given_: list[Candidate], now: float
) -> None:
    selection = policy.apply(asked, given_, now)
    if policy.kind == "order":  # type: ignore[attr-defined]
        assert not selection.removed
    else:
        assert names(selection.kept) == [name for name in names(given_) if name in names(selection.kept)]


@every_policy
def test_nobody_given_is_nobody_kept(policy: Policy) -> None:
    empty: Sequence[Candidate] = []
    selection = policy.apply(call(), empty, 0.0)
    assert not selection.kept
    assert not selection.removed


@pytest.mark.parametrize("word", WORDS)
def test_a_file_holds_one_policy_of_its_name_and_says_what_it_means(word: str) -> None:
    module = __import__(f"policies.{word}", fromlist=[word])
    found = getattr(module, camel_case(word))
    assert issubclass(found, Frozen)
    assert found.__struct_config__.frozen
    assert found.__struct_config__.forbid_unknown_fields
    assert found.kind in ("may", "can_now", "order")
    assert isinstance(found.order_independent, bool)
    first_sentence = found.__doc__.strip().split("\n\n")[0]
    assert first_sentence.endswith(".")
    assert len(first_sentence) <= 120
    assert module.__doc__


@pytest.mark.parametrize("word", WORDS)
def test_an_unknown_option_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        load(word, {**example(word), "no_such_option": 1})


@pytest.mark.parametrize("word", WORDS)
def test_an_option_of_the_wrong_kind_is_refused(word: str) -> None:
    found = type(load(word, example(word)))
    for field in msgspec.structs.fields(found):
        with pytest.raises(ConfigError):
            load(word, {**example(word), field.name: [math.pi, {"a": object}]})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_policy_imports_only_the_nouns_and_its_like(path: Path) -> None:
    """No clock, no chance, no I/O: what could bring them in is not imported."""
    allowed = {"gateway.types", "gateway.errors", "msgspec"}
    allowed |= {"collections.abc", "decimal", "hashlib", "math", "operator", "typing"}
    for node in ast.walk(ast.parse(path.read_text())):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert all(name in allowed or name.startswith("policies._") for name in found), found
        assert not (
            isinstance(node, ast.Name) and node.id in ("open", "print", "hash", "id", "globals", "exec", "eval")
        )
