"""The secrets with which run-time keys are kept as digests: of the config, or made once and kept beside a SQLite file.

Rule 1. The first pepper makes new digests; the second, if there is one, still knows older keys.
Rule 2. A pepper is known by a short name made from it, which every stored key carries.
"""

import contextlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError

SUFFIX = ".pepper"
MADE_BYTES = 32


class Pepper:
    """One pepper. Its name tells nothing of it."""

    __slots__ = ("_secret", "name")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.name = self.digest(b"the name of this pepper")[:12]

    def digest(self, key: bytes) -> str:
        """HMAC-SHA-256 as hex: keys have 192 random bits, so that no slow hash is needed."""
        return hmac.digest(self._secret, key, "sha256").hex()

    def __repr__(self) -> str:
        return f"Pepper({self.name})"


def beside(database: Path) -> Path:
    """The file of the pepper that is kept with a SQLite file."""
    return database.with_name(database.name + SUFFIX)


def kept(file: Path) -> Sequence[Pepper]:
    """The pepper in a file, none when there is no file. Raises ConfigError when it cannot be read."""
    try:
        found = file.read_bytes().strip()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read: {error.strerror}") from error
    if len(found) < MADE_BYTES:
        raise ConfigError(str(file), "is no pepper: bring the file back, or remove it and make new keys")
    return (Pepper(found),)


def made(file: Path) -> Sequence[Pepper]:
    """The pepper in a file, made there for the owner alone if there is none; whoever comes first makes it.

    Raises ConfigError when it cannot be written."""
    if found := kept(file):
        return found
    try:
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)  # its mode is 0600
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(secrets.token_hex(MADE_BYTES).encode())
                out.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(name, file)
        finally:
            os.unlink(name)
    except OSError as error:
        raise ConfigError(str(file), f"cannot be written: {error.strerror}") from error
    return kept(file)
