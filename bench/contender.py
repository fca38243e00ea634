"""The noun Contender: a program that takes chat calls on one port and has one upstream. They are in contenders/."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

MODEL = "llama-3.1-8b"
"""What a call asks for; the upstreams call it otherwise, as clouds do."""
KEY = "sk-bench-0123456789abcdef0123456789abcdef"


class Place(NamedTuple):
    """Where a contender runs: a folder for its files, its port, a spare port, the port of its upstream."""

    folder: Path
    port: int
    spare_port: int
    upstream_port: int


class Contender(Protocol):
    """`about` says what is switched on, `binary` is its program, which may be replaced by another path."""

    name: str
    about: str
    binary: str

    def prepare(self) -> str:
        """Installs what can be installed; says what is missing, "" when nothing is."""
        ...

    def version(self) -> str: ...

    def command(self, place: Place) -> Sequence[str]:
        """Writes its config and returns how it is started, in the foreground."""
        ...
