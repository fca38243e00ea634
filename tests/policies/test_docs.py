"""docs/policies.md tells every policy, every option with its default, and no example that would be refused."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from policies.objective import Limits
from tests.policies.test_contract import WORDS, example, load

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()
SECTIONS = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
OPEN_WORDS = {"sensitivity": {"levels"}}
"""Options that are written in another form, said in words."""


def test_every_policy_has_a_section_and_no_section_is_left_over() -> None:
    assert sorted(SECTIONS) == WORDS


@pytest.mark.parametrize("word", WORDS)
def test_a_section_begins_with_the_policys_own_first_sentence(word: str) -> None:
    said = type(load(word, example(word))).__doc__ or ""
    assert SECTIONS[word].split("\n\n")[1] == said.split("\n\n")[0].strip()


@pytest.mark.parametrize("word", WORDS)
def test_a_section_lists_each_option_with_its_default(word: str) -> None:
    rows = {
        name: default.strip() for name, default in re.findall(r"^\| `(\w+)` \|(.*?)\|", SECTIONS[word], re.MULTILINE)
    }
    fields = msgspec.structs.fields(type(load(word, example(word))))
    told = {name: default for name, default in rows.items() if name in {field.name for field in fields}}
    expected = {field.name: shown(field) for field in fields if field.name not in OPEN_WORDS.get(word, ())}
    assert told == expected


def shown(field: Any) -> str:
    """A default as an operator writes it; nothing where there is none."""
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if default is msgspec.NODEFAULT or default is None:
        return ""
    if isinstance(default, msgspec.Struct):
        default = {name: value for name, value in msgspec.structs.asdict(default).items() if value is not None}
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_an_example_is_a_config_that_loads(block: str) -> None:
    document = yaml.safe_load(block)
    for policy in document["policies"] if isinstance(document, dict) else document:
        word, options = (policy, {}) if isinstance(policy, str) else next(iter(policy.items()))
        assert load(word, options)


def test_every_limit_of_the_objective_is_told() -> None:
    for field in msgspec.structs.fields(Limits):
        assert f"`{field.name}`" in SECTIONS["objective"]
