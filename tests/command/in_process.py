"""A command that is run in this process: the same words and exit codes, without the start of another Python."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gateway import cli
from tests import process


def command(arguments: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> int:
    """Its exit code."""
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        for name in set(os.environ) - set(process.environment()):
            patch.delenv(name)
        for name, value in {"HOME": "/nonexistent", **(env or {})}.items():
            patch.setenv(name, value)
        try:
            return cli.main(arguments)
        except SystemExit as end:  # argparse
            return int(end.code or 0)
