"""YAML text to plain objects: nothing but data, no key twice, no alias bombs; mistakes with line and column."""

from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError

MAX_VALUES = 100_000
"""What a config may expand to through aliases."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> object:
    """The file's one document. Raises ConfigError that names the file, line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    return parse(text, str(path))


def parse(text: str, name: str = "config") -> object:
    """As `read`, of text."""
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(place, str(error.problem)) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(name, "is not YAML") from error
    if _size(document, {}) > MAX_VALUES:
        raise ConfigError(name, f"expands to more than {MAX_VALUES} values through aliases")
    return document


def _size(value: object, known: dict[int, int]) -> int:
    """How many values it has when every alias is written out, counted without writing them out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MAX_VALUES  # stands while inside: a list that holds itself is endless
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(value)]
