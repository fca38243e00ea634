"""`arriero models` for people (a golden page) and for programs (a schema that must not change unseen)."""

import json
from datetime import date
from pathlib import Path

import jsonschema

from gateway.catalog import Catalog, table, to_json

CATALOG = Catalog.load()
TODAY = date(2026, 11, 22)
GOLDEN = Path(__file__).with_name("golden")


def test_the_page_of_one_cloud_is_as_shown():
    assert table(CATALOG.rows("groq"), TODAY) == (GOLDEN / "groq.txt").read_text()


def test_the_page_of_a_day_shows_what_is_gone_on_that_day():
    bedrock = CATALOG.rows("bedrock")
    assert "until 2027-03-30" in table(bedrock, TODAY)
    assert "until 2027-03-30" not in table(bedrock, date(2027, 3, 30))


def test_every_cloud_has_its_block_and_columns_align_over_all():
    page = table(CATALOG.rows(), TODAY)
    blocks = page.strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == sorted({row.cloud for row in CATALOG.rows()})
    headings = [line for line in page.split("\n") if line.startswith("  weights ")]
    assert len(headings) == len(blocks)
    assert len(set(headings)) == 1


def test_nothing_to_show_is_an_empty_page():
    assert table([], TODAY) == "\n"
    assert json.loads(to_json([])) == []


def test_rows_for_programs_keep_their_schema():
    schema = json.loads((GOLDEN / "rows.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(to_json(CATALOG.rows())), schema)


def test_one_row_for_programs_is_as_shown():
    shown = to_json([CATALOG.row("bedrock", "llama-3.1-70b"), CATALOG.row("oci", "llama-3.3-70b")])
    assert shown == (GOLDEN / "rows.json").read_text()


def test_money_for_programs_is_text_and_never_a_float():
    def no_float(text):
        raise AssertionError(text)

    json.loads(to_json(CATALOG.rows()), parse_float=no_float)
