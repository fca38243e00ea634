"""Ids, prices and dates agree with the price file inside litellm, or the difference is listed with its reason.

The file is found in the venv that holds litellm and read as data; litellm itself is not imported."""

import json
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.catalog import Catalog, Row
from gateway.prices import usd
from gateway.types import Price
from tests.needs import need

ROOT = Path(__file__).parents[2]
FILES = sorted(
    ROOT.glob(".venv-litellm/lib/python3*/site-packages/litellm/model_prices_and_context_window_backup.json")
)
LISTED = tomllib.loads(Path(__file__).with_name("differences.toml").read_text())["difference"]
PREFIX = {
    "anthropic": "",
    "azure": "azure_ai/",
    "bedrock": "",
    "databricks": "databricks/",
    "groq": "groq/",
    "nim": "nvidia_nim/",
    "oci": "oci/",
    "openai": "",
    "vertex": "vertex_ai/",
}
"""How litellm spells a cloud before its model ids. vLLM has no ids but the operator's own."""
OURS = re.compile(
    r"(us\.)?meta\.llama(3-[13]|4)-|"
    r"(azure_ai|vertex_ai|oci|groq|databricks|nvidia_nim)/.*llama-(3[.-][13]-(8|70|405)b|4-)(?!.*(vision|guard|nemo))",
    re.IGNORECASE,
)
"""Ids of the price file that a row of ours should know."""


class Difference(NamedTuple):
    key: str
    field: str
    ours: str
    theirs: str


@pytest.fixture(scope="module")
def price_file() -> dict[str, dict]:
    need(".venv-litellm (pip install --require-hashes -r requirements-litellm.lock)", bool(FILES))
    return json.loads(FILES[-1].read_text(), parse_float=Decimal)


def nano(per_token: Decimal | int | None) -> int | None:
    """Nano-dollars per one million tokens; the file's floats are off in their last digits."""
    return None if per_token is None else round(Decimal(per_token) * 10**15)


def pair(entry: dict, suffix: str) -> Price | None:
    prices = nano(entry.get(f"input_cost_per_token{suffix}")), nano(entry.get(f"output_cost_per_token{suffix}"))
    return None if None in prices else Price(*prices)


def text(value: object) -> str:
    match value:
        case None:
            return "none"
        case Price():
            return f"{usd(value.input)}/{usd(value.output)}"
        case int():
            return usd(value)
    return str(value)


def compare(row: Row, key: str, entry: dict | None) -> set[Difference]:
    if entry is None:
        return {Difference(key, "id", "listed", "absent")}
    both = {
        "price": (row.price, pair(entry, "")),
        "batch": (row.batch, pair(entry, "_batches")),
        "cached_input": (row.cached_input, nano(entry.get("cache_read_input_token_cost"))),
        "retires": (row.retires and str(row.retires), entry.get("deprecation_date")),
    }
    return {Difference(key, field, text(a), text(b)) for field, (a, b) in both.items() if a != b}


def found(price_file: dict[str, dict]) -> set[Difference]:
    keys = [
        (row, PREFIX[row.cloud] + id_)
        for row in Catalog.load().rows()
        if row.cloud in PREFIX
        for id_ in (row.id, *row.ids)
    ]
    known = {key for _, key in keys}
    unknown = {Difference(key, "id", "absent", "listed") for key in price_file if OURS.match(key) and key not in known}
    return unknown.union(*(compare(row, key, price_file.get(key)) for row, key in keys))


def listed() -> list[Difference]:
    return [Difference(key, one["field"], one["ours"], one["theirs"]) for one in LISTED for key in one["keys"]]


def test_every_difference_from_the_price_file_is_listed(price_file):
    surprises = found(price_file) - set(listed())
    assert not surprises, "list with a reason, or mend the row:\n" + "\n".join(map(str, sorted(surprises)))


def test_every_listed_difference_still_exists(price_file):
    stale = set(listed()) - found(price_file)
    assert not stale, "no longer differs, take it off the list:\n" + "\n".join(map(str, sorted(stale)))


def test_every_listed_difference_has_a_reason_and_is_listed_once():
    assert all(len(one["reason"]) > 20 for one in LISTED)
    assert len(listed()) == len(set(listed()))


def test_the_comparison_meets_most_rows(price_file):
    """So that a change of litellm's spelling cannot empty the comparison unseen."""
    absent = {one.key for one in found(price_file) if one.theirs == "absent"}
    rows = [row for row in Catalog.load().rows() if row.cloud in PREFIX]
    met = [row for row in rows if PREFIX[row.cloud] + row.id not in absent]
    assert len(met) >= 30
    assert {row.cloud for row in met} >= {
        "bedrock",
        "azure",
        "vertex",
        "oci",
        "groq",
        "databricks",
        "openai",
        "anthropic",
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"input_cost_per_token": Decimal("7.3e-07")}, "price"),
        ({"output_cost_per_token": None}, "price"),
        ({"output_cost_per_token_batches": Decimal("3.7e-07")}, "batch"),
        ({"cache_read_input_token_cost": Decimal("1e-08")}, "cached_input"),
        ({"deprecation_date": "2027-03-31"}, "retires"),
    ],
)
def test_a_changed_field_is_a_difference(change, field):
    row = Catalog.load().row("bedrock", "llama-3.1-70b")
    entry = {
        "input_cost_per_token": Decimal("7.2e-07"),
        "output_cost_per_token": Decimal("7.199999999999999e-07"),
        "input_cost_per_token_batches": Decimal("3.6e-07"),
        "output_cost_per_token_batches": Decimal("3.6e-07"),
        "deprecation_date": "2027-03-30",
    }
    assert compare(row, "k", entry) == set()
    assert {one.field for one in compare(row, "k", entry | change)} == {field}
