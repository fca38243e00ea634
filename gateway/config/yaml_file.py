"""YAML text to plain objects: nothing but data, no key twice, no alias bombs; mistakes with line and column."""

from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError

MAX_VALUES = 100_000
"""What a config may expand to through aliases."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses keys that are no text or stand twice, and leaves dates alone: nothing here is a date."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (as PyYAML has it)
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                shown = f"the name {key.value}" if isinstance(key, yaml.ScalarNode) else "a name"
                raise _mistake(f"{shown} is not text: put it in quotes", key)
            if key.value in seen:
                raise _mistake(f"the name '{key.value}' stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _mistake(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


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
        size = _size(document, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise ConfigError(place, str(error.problem)) from error
    except yaml.reader.ReaderError as error:
        raise ConfigError(name, f"holds a character that YAML does not allow, at {error.position}") from error
    except RecursionError as error:
        raise ConfigError(name, "is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(name, f"is not YAML: {error}") from error
    if size > MAX_VALUES:
        raise ConfigError(name, f"expands to more than {MAX_VALUES:,} values through aliases")
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
