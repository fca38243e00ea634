"""The page for operators says of every parameter what the code does."""

from pathlib import Path

from providers._bedrock_request import PARAMETERS
from providers._emulation import DROPPABLE
from providers.bedrock import EMULATES

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "bedrock.md"
BEGIN, END = "<!-- parameters -->\n", "<!-- /parameters -->"


def table() -> str:
    """One row for each way to handle a parameter."""
    ways = sorted(set(PARAMETERS.values()), key=["mapped", "feature", "ignored", "lossy", "refused"].index)
    rows = [f"| {way} | {' '.join(f'`{n}`' for n, h in sorted(PARAMETERS.items()) if h == way)} |" for way in ways]
    return "\n".join(["| | Parameters |", "|---|---|", *rows]) + "\n"


def test_the_table_of_parameters_is_the_codes() -> None:
    said = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert said == table(), "run: python -m tests.bedrock.test_docs"


def test_every_feature_that_is_stood_in_for_or_dropped_is_on_the_page() -> None:
    text = PAGE.read_text()
    assert all(word in text for word in EMULATES)
    assert all(name in text for names in DROPPABLE.values() for name in names)


if __name__ == "__main__":
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + table() + END + rest.partition(END)[2])
