"""A refused value in the operator's words: where it stands, what is wrong, the nearest known word. Pure.

Rule 1. Numbers and misspelt words are shown, for that explains; other text is not: it may be a secret out of place.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from gateway.config.document import LATER
from gateway.errors import ConfigError

KINDS: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}
"""msgspec's names of types in plain words."""

_MESSAGE = re.compile(r"(?P<reason>.*?)(?: - at `(?P<key>key` in `)?\$?(?P<at>[^`]*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<word>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<word>[^`]*)`")
_KIND = re.compile(r"Expected `(?P<kinds>[^`]*)`, got `(?P<got>[^`]*)`")
_BOUND = re.compile(r"Expected `\w+` (?P<length>of length )?(?P<sign>[<>]=?) (?P<bound>\S+)")
_CHOICE = re.compile(r"Invalid enum value (?:'(?P<word>[^']*)')?")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_SIGNS = {">=": "at least", ">": "above", "<=": "at most", "<": "below"}


def refused(error: Exception, value: object, kind: Any, path: str) -> ConfigError:
    """What msgspec says of a value that is no `kind`, or what a class's own check says."""
    match = _MESSAGE.fullmatch(str(error))
    assert match is not None  # it matches everything
    reason, at = match["reason"], match["at"] or ""
    wrong, wanted = _value_at(value, at), _type_at(kind, at)
    place = path + at.partition("[...]")[0]
    if found := _UNKNOWN.match(reason):
        return unknown(f"{place}.{found['word']}", found["word"], _fields(wanted))
    if found := _MISSING.match(reason):
        return ConfigError(place, f"'{found['word']}' is missing")
    if found := _CHOICE.match(reason):
        return unknown(place, found["word"] or str(wrong), [str(word) for word in get_args(wanted)], "value")
    if match["key"]:
        return ConfigError(place, "every name in it " + _sentence(reason, wrong, get_args(wanted)[0]))
    return ConfigError(place, ("every value in it " if "[...]" in at else "") + _sentence(reason, wrong, wanted))


def _sentence(reason: str, wrong: object, wanted: Any) -> str:
    """The reason without the names of a programming language; a reason of our own stays as it is."""
    if found := _KIND.fullmatch(reason):
        kinds = [KINDS.get(kind, kind) for kind in found["kinds"].split(" | ") if kind != "null"]
        not_this = shown(wrong) if wrong is not None else KINDS.get(found["got"], found["got"])
        return f"must be {' or '.join(kinds)}, not {not_this}{_quotes(wrong, kinds)}"
    if found := _BOUND.fullmatch(reason):
        limit = f"{_SIGNS[found['sign']]} {found['bound'].removesuffix('.0')}"
        return f"must have a length of {limit}" if found["length"] else f"must be {limit}, not {shown(wrong)}"
    if "matching regex" in reason:
        return f"must be {_described(wanted)}"
    if reason.startswith("Invalid decimal"):
        return "must be a number, not text"
    return reason


def _quotes(wrong: object, kinds: list[str]) -> str:
    """YAML reads no, on, 1.10 and the like as something else than text."""
    return ": put it in quotes" if kinds == ["text"] and isinstance(wrong, bool | int | float) else ""


def shown(value: object) -> str:
    """A number or a word of YAML itself, the kind of anything else."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)[:40]
    names: Mapping[type, str] = {str: "text", list: "a list", dict: "a mapping"}
    return names.get(type(value), type(value).__name__)


def unknown(path: str, word: str, known: Iterable[str], what: str = "word") -> ConfigError:
    """Refuses a word, with the nearest known one or the whole list."""
    known = list(known)
    if word in LATER and what == "word":
        return ConfigError(path, f"'{word}' ({LATER[word]}) is not offered by this version")
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}" if known else "none is known here"
    return ConfigError(path, f"unknown {what} '{word}'; {hint}")


def _steps(at: str) -> list[str]:
    """`.a[0][...]` as ["a", "0", "..."]."""
    return [name or index for name, index in _STEP.findall(at)]


def _value_at(value: Any, at: str) -> Any:
    """What stands at a path below a value; None below `[...]`, which does not say under which name."""
    for step in _steps(at):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list | tuple) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _type_at(kind: Any, at: str) -> Any:
    """The type that stands at a path below another, without `None` and annotations."""
    kind = _bare(kind)
    for step in _steps(at):
        if _is_struct(kind):
            types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            kind = _bare(types.get(step))
        else:
            arguments = get_args(kind)
            kind = _bare(arguments[-1 if step == "..." and get_origin(kind) is not tuple else 0]) if arguments else None
    return kind


def _bare(kind: Any) -> Any:
    """`X | None` as X; an annotated type keeps its note, unless there is a struct below it."""
    if get_origin(kind) in (Union, UnionType):
        return next((_bare(part) for part in get_args(kind) if part is not type(None)), None)
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _fields(kind: Any) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(kind)] if _is_struct(kind) else []


def _described(kind: Any) -> str:
    """The description that an annotated type carries for people."""
    if get_origin(kind) is Annotated:
        for note in get_args(kind)[1:]:
            if isinstance(note, msgspec.Meta) and note.description:
                return note.description
    return "of another form"
