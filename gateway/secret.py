"""A secret of the config: from the environment, a file, or plain text; shown as `***` wherever it is printed."""

import os
import time
from collections.abc import Callable
from pathlib import Path

RECHECK_S = 1.0


class Secret:
    """`env:NAME`, `file:/path` or the text itself. A file is read again when it changed, at most once a second."""

    __slots__ = ("_checked", "_clock", "_modified", "_path", "_text", "source")

    def __init__(self, spec: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError that names the variable or the file that is missing."""
        self._clock, self._checked, self._modified = clock, clock(), 0
        self._path: Path | None = None
        self.source = spec if spec.startswith(("env:", "file:")) else "text"
        if spec.startswith("env:"):
            self._text = os.environ.get(spec[4:], "")
            if not self._text:
                raise ValueError(f"the environment variable {spec[4:]} is not set")
        elif spec.startswith("file:"):
            self._path = Path(spec[5:])
            self._text = self._read(self._path)
        else:
            self._text = spec
        if not self._text:
            raise ValueError("it is empty")

    def _read(self, path: Path) -> str:
        try:
            self._modified = path.stat().st_mtime_ns
            return path.read_text().strip()
        except OSError as error:
            raise ValueError(f"the file {path} cannot be read: {error.strerror}") from error

    def reveal(self) -> str:
        """The secret itself. A file that vanished or became empty keeps its last text."""
        if self._path is not None and self._clock() - self._checked >= RECHECK_S:
            self._checked = self._clock()
            self._refresh(self._path)
        return self._text

    def _refresh(self, path: Path) -> None:
        try:
            if path.stat().st_mtime_ns != self._modified:
                self._text = self._read(path) or self._text
        except (OSError, ValueError):
            return

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__
