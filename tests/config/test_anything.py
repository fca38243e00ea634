"""Whatever stands at whichever place of a config: it is taken, or refused with a path; never a crash, never a leak."""

import copy
import io
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.app import Gateway
from gateway.config import loading, plugins, yaml_file
from gateway.errors import ConfigError
from gateway.log import Log

WHOLE: dict[str, Any] = {
    "providers": {
        "a": {"type": "openai", "url": "http://127.0.0.1:1/v1", "api_key": "k", "timeouts": {"connect_s": 1}},
        "b": {"type": "vllm", "gpu_usd_per_hour": 2.5, "gpus": 2},
    },
    "routes": {
        "r": {
            "aliases": ["x"],
            "deployments": [{"account": "a", "model": "m", "price": {"in": 1, "out": 2}, "features": ["chat"]}, "b"],
            "weights": "llama-3.1-8b",
            "policies": [
                "breaker",
                {"residency": {"label": "region", "map": {"eu": ["eu"]}}},
                {"sensitivity": {"restricted": ["a"]}},
                {"budget": {"account": "a", "usd": 1, "per": "day"}},
                {"objective": {"minimize": "cost", "subject_to": {"ttft_p95_s": 1}}},
            ],
        }
    },
    "keys": [
        {"name": "t", "key": "k", "routes": ["*"], "labels": {"region": "eu"}, "team": "x", "expires": "2030-01-01"}
    ],
    "teams": [{"name": "x", "routes": ["*"], "labels": {"tier": "1"}}],
    "server": {"grace_s": 1},
    "admin": {"tokens": [{"name": "o", "token": "t", "scope": "read"}]},
    "attempts": {"max": 3},
    "baseline": {"model": "gpt-4o"},
}
WORDS = st.sampled_from(
    ["a", "b", "r", "x", "", "type", "url", "account", "breaker", "env:NOT_THERE", "file:/not/there", "eu", "é", "\x00"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value that is inside another."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def with_value(path: tuple[Any, ...], value: Any) -> Any:
    document = copy.deepcopy(WHOLE)
    if not path:
        return value
    inner: Any = document
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return document


def outcome(document: Any) -> str:
    """ "" for a config that is taken, else the refusal."""
    try:
        Gateway(loading.build(document), log=Log(io.BytesIO(), human=False))
    except ConfigError as error:
        return str(error)
    return ""


def test_the_whole_is_taken() -> None:
    assert outcome(WHOLE) == ""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(places(WHOLE)), VALUES)
def test_any_value_at_any_place_is_taken_or_refused_with_words(path: tuple[Any, ...], value: Any) -> None:
    words = outcome(with_value(path, value))
    for foreign in ("Traceback", "msgspec", "Decimal(", "expected `", "NoneType", "object at 0x", "<class"):
        assert foreign not in words


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(places(WHOLE)), st.text(max_size=12), VALUES)
def test_any_word_added_anywhere_is_taken_or_refused_with_words(path: tuple[Any, ...], word: str, value: Any) -> None:
    document = copy.deepcopy(WHOLE)
    inner: Any = document
    for step in path:
        inner = inner[step]
    if isinstance(inner, dict):
        inner[word] = value
        outcome(document)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["providers", "policies"]), st.data())
def test_any_options_of_any_plugin_are_taken_or_refused_with_words(kind: plugins.Kind, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name in plugins.names(kind) if name != "litellm"]))
    fields = list(plugins.load(kind, name).__struct_fields__)
    options = data.draw(st.dictionaries(st.sampled_from(fields) if fields else WORDS, VALUES, max_size=4))
    if kind == "providers":
        outcome(with_value(("providers", "a"), {"type": name, **options}))
    else:
        outcome(with_value(("routes", "r", "policies"), [{name: options}]))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab: -[]{}&*!|>'\"#%@\n\t?,<\x000123456789", max_size=60))
def test_any_text_is_yaml_or_refused_with_its_place(text: str) -> None:
    place = ""
    try:
        yaml_file.parse(text)
    except ConfigError as error:
        place = error.path
    assert place.startswith("config") or place == ""
