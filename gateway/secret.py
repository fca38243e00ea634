"""A secret of the config: from the environment, a file, or plain text; shown as `***` wherever it is printed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

RECHECK_S = 1.0


class Secret:
    """`env:NAME`, `file:/path` or the text itself. A file is read again when it changed, at most once a second."""

    __slots__ = ("_checked", "_clock", "_modified", "_path", "_spec", "_text", "source")
    one_line: ClassVar[bool] = True

    def __init__(self, spec: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError that names the variable or the file that is missing."""
        self._clock, self._checked, self._modified = clock, clock(), 0
        self._path: Path | None = None
        self._spec = spec
        self.source = spec if spec.startswith(("env:", "file:")) else "text"
        if spec.startswith("env:"):
            self._text = _from_environment(spec[4:])
        elif spec.startswith("file:"):
            self._path = Path(spec[5:])
            self._text = self._read(self._path)
        else:
            self._text = spec
        if problem := self._problem(self._text):
            raise ValueError(problem if self.source == "text" else f"{self.source} {problem}")

    def _read(self, path: Path) -> str:
        try:
            modified = path.stat().st_mtime_ns
            text = path.read_text().strip()
        except OSError as error:
            raise ValueError(f"the file {path} cannot be read: {error.strerror}") from error
        self._modified = modified  # only now: what could not be read is tried again
        return text

    def reveal(self) -> str:
        """The secret itself. A file that vanished or holds no secret any more keeps its last text."""
        if self._path is not None and self._clock() - self._checked >= RECHECK_S:
            self._checked = self._clock()
            self._refresh(self._path)
        return self._text

    def _refresh(self, path: Path) -> None:
        try:
            if path.stat().st_mtime_ns != self._modified:
                text = self._read(path)
                self._text = self._text if self._problem(text) else text
        except (OSError, ValueError):
            return

    def _problem(self, text: str) -> str:
        """Why a text cannot be a secret: most go into headers."""
        if not text:
            return "is empty"
        flat = text if self.one_line else "".join(text.splitlines())
        return "" if flat.isascii() and flat.isprintable() else "holds a character that no header can carry"

    def __eq__(self, other: object) -> bool:
        """Whether both come from the same place; what a file or a variable holds is not looked at."""
        if not isinstance(other, Secret) or type(other) is not type(self):
            return NotImplemented
        return self._spec == other._spec

    def __hash__(self) -> int:
        return hash(self._spec)

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


class Pem(Secret):
    """A private key as text: it has lines, and goes into no header."""

    __slots__ = ()
    one_line = False


def _from_environment(name: str) -> str:
    if name not in os.environ:
        raise ValueError(f"the environment variable {name} is not set")
    return os.environ[name].strip()  # Kubernetes secrets often end with a line break
