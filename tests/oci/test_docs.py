"""The page for operators says what the code does, from the same table."""

from pathlib import Path

from providers._oci_request import PARAMETERS

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "oci.md"


def table() -> str:
    """Every parameter by what becomes of it."""
    lines = ["| | Parameters |", "|---|---|"]
    for word in ("mapped", "ignored", "lossy", "refused"):
        names = " ".join(f"`{name}`" for name in sorted(PARAMETERS) if PARAMETERS[name] == word)
        lines.append(f"| {word} | {names} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_parameters_is_the_codes() -> None:
    said = PAGE.read_text().partition("<!-- parameters -->\n")[2].partition("<!-- /parameters -->")[0]
    assert said == table()
    assert set(PARAMETERS.values()) == {"mapped", "ignored", "lossy", "refused"}
