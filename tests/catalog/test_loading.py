"""A file that is wrong is refused with its name, the row and the reason."""

import pytest

from gateway.catalog import Catalog
from gateway.errors import ConfigError

WEIGHTS = """
[[weights]]
name = "w"
open = true
license = "l"
source = "somewhere"
checked = 2026-11-22
"""
ROW = """
cloud = "acme"
[defaults]
source = "somewhere"
checked = 2026-11-22
[[rows]]
weights = "w"
id = "acme-w"
"""


def load(folder, row=ROW, weights=WEIGHTS, name="acme.toml"):
    (folder / "weights.toml").write_text(weights)
    (folder / name).write_text(row)
    return Catalog.load(folder)


def test_a_row_takes_what_it_does_not_say_from_the_defaults_of_its_file(tmp_path):
    row = load(tmp_path).row("acme", "w")
    assert (row.id, row.source, row.price, row.features) == ("acme-w", "somewhere", None, frozenset())


def test_unknown_places_are_none(tmp_path):
    catalog = load(tmp_path)
    assert catalog.row("acme", "other") is None
    assert catalog.row("other", "w") is None
    assert catalog.by_id("acme", "other") is None
    assert catalog.weights("other") is None
    assert catalog.rows("other") == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('features = ["chat", "telepathy"]', "telepathy"),
        ('price = {in = "1", out = "-2"}', "not an amount"),
        ('price = {in = "1"}', "in, out"),
        ('price = {in = "1", out = "2", extra = "3"}', "in, out"),
        ('price = {in = "0.0000000001", out = "1"}', "nano"),
        ('colour = "red"', "colour"),
        ('retires = "soon"', "date"),
        ("context_tokens = -1.5", "int"),
    ],
)
def test_a_wrong_row_is_refused_with_its_place_and_reason(tmp_path, line, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        load(tmp_path, ROW + line + "\n")
    assert refused.value.path == "acme.toml: w"


@pytest.mark.parametrize("missing", ["id", "source", "checked"])
def test_a_row_without_its_needful_is_refused(tmp_path, missing):
    text = "\n".join(line for line in ROW.splitlines() if not line.startswith(missing))
    with pytest.raises(ConfigError, match=missing):
        load(tmp_path, text)


def test_a_file_says_its_own_cloud(tmp_path):
    with pytest.raises(ConfigError, match="cloud = 'other'"):
        load(tmp_path, name="other.toml")


def test_wrong_weights_are_refused_with_their_name(tmp_path):
    with pytest.raises(ConfigError, match="size") as refused:
        load(tmp_path, weights=WEIGHTS + 'size = "big"\n')
    assert refused.value.path == "weights.toml: w"
