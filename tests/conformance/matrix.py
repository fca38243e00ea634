"""The matrix cloud x conversation: played, read and written as the golden file `matrix.txt`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox.cloud import clouds
from tests.conformance.conversation import Conversation
from tests.conformance.forms import FORMS
from tests.conformance.stage import Stage
from tests.conformance.talks import TALKS
from tests.conformance.troubles import TROUBLES

GOLDEN = Path(__file__).with_name("matrix.txt")
CONVERSATIONS: Mapping[str, Conversation] = {one.name: one for one in (*TALKS, *FORMS, *TROUBLES)}
CLOUDS = list(clouds())
ROWS = [(one.name, mode) for one in CONVERSATIONS.values() for mode in one.modes]
Matrix = Mapping[tuple[str, str], Mapping[str, str]]
"""(conversation, mode) -> cloud -> what came of it."""


def played(stage: Stage, cloud: str) -> dict[tuple[str, str], str]:
    """A cloud's column."""
    return {(name, mode): stage.cell(CONVERSATIONS[name], cloud, mode) for name, mode in ROWS}


def text(matrix: Matrix) -> str:
    """A line for each conversation and mode; a cell for each cloud, in columns."""
    lines = [["conversation", "mode", *CLOUDS]]
    lines += [[name, mode, *(matrix[name, mode][cloud] for cloud in CLOUDS)] for name, mode in ROWS]
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "".join(" | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


def golden() -> Matrix:
    """The matrix as it is checked in."""
    head, *lines = [_cells(line) for line in GOLDEN.read_text().splitlines()]
    return {(name, mode): dict(zip(head[2:], cells, strict=True)) for name, mode, *cells in lines}


def _cells(line: str) -> Sequence[str]:
    return [cell.strip() for cell in line.split(" | ")]
