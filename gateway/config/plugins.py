"""The word in the config names the plugin: `type: groq` is providers/groq.py, `- breaker` is policies/breaker.py.

Rule 1. A file of the house or an entry point (`arriero.providers`, `arriero.policies`) of an installed package.
Rule 2. The class is the CamelCase of the word; a plugin is imported only when the config names it.
"""

import importlib
import importlib.metadata
import pkgutil
from functools import cache
from typing import Literal

from gateway.errors import ConfigError

Kind = Literal["providers", "policies"]

CLASS_NAMES = {
    "openai": "OpenAI",
    "vllm": "VLLM",
    "nim": "NIM",
    "oci": "OCI",
    "litellm": "LiteLLM",
}
"""Where a word is written otherwise than CamelCase."""


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """The words that may stand in the config, sorted."""
    package = importlib.import_module(kind)
    own = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg}
    foreign = {entry.name for entry in importlib.metadata.entry_points(group=f"arriero.{kind}")}
    return tuple(sorted(name for name in own | foreign if not name.startswith("_")))


@cache
def load(kind: Kind, name: str) -> type:
    """The class behind a word. Raises ConfigError with the reason when it cannot be imported."""
    for entry in importlib.metadata.entry_points(group=f"arriero.{kind}", name=name):
        found = entry.load()
        if isinstance(found, type):
            return found
    try:
        module = importlib.import_module(f"{kind}.{name}")
    except ImportError as error:
        raise ConfigError("", f"'{name}' cannot be loaded: {error}") from error
    found = getattr(module, class_name(name))
    assert isinstance(found, type)
    return found


def class_name(word: str) -> str:
    return CLASS_NAMES.get(word) or "".join(part.capitalize() for part in word.split("_"))
