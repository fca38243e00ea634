"""`arriero check` warns of weights that are gone or retire within 90 days, and names the remedy."""

from datetime import date, timedelta

import msgspec
import pytest

from gateway.catalog import Catalog, Row, retirement_warnings

TODAY = date(2026, 11, 22)
CATALOG = Catalog.load()


def row(retires=None, **fields):
    given = {"cloud": "acme", "weights": "w", "id": "acme-w", "source": "somewhere", "checked": TODAY} | fields
    return Row(retires=retires, **given)


def in_days(days):
    return TODAY + timedelta(days=days)


@pytest.mark.parametrize("days", [-400, -1, 0, 1, 89, 90])
def test_weights_that_are_gone_or_go_within_90_days_are_warned_of(days):
    assert len(retirement_warnings([row(in_days(days))], TODAY)) == 1


@pytest.mark.parametrize("retires", [None, in_days(91), in_days(400)])
def test_weights_with_a_longer_runway_are_not(retires):
    assert retirement_warnings([row(retires)], TODAY) == []


@pytest.mark.parametrize(("days", "within", "count"), [(30, 30, 1), (31, 30, 0), (0, 0, 1), (1, 0, 0)])
def test_the_runway_is_a_choice(days, within, count):
    assert len(retirement_warnings([row(in_days(days))], TODAY, within)) == count


def test_the_day_of_retirement_is_the_first_without_service():
    assert row(TODAY).gone(TODAY)
    assert not row(in_days(1)).gone(TODAY)
    assert row(offered=False).gone(TODAY)
    assert not row().gone(TODAY)


def test_a_warning_says_when_for_whom_and_where_to_go():
    groq = CATALOG.row("groq", "llama-3.1-8b")
    assert retirement_warnings([groq], TODAY, catalog=CATALOG) == [
        "groq llama-3.1-8b retired 2026-08-16 (free and developer tiers); move to gpt-oss-20b there "
        "(model: openai/gpt-oss-20b), or the same weights are at databricks, vllm, bedrock, nim"
    ]


def test_a_warning_ahead_of_time_counts_the_days_and_dates_the_successor():
    bedrock = CATALOG.row("bedrock", "llama-3.1-70b")
    assert retirement_warnings([bedrock], date(2027, 1, 1), catalog=CATALOG) == [
        "bedrock llama-3.1-70b retires 2027-03-30, in 88 days; move to llama-3.3-70b there "
        "(model: us.meta.llama3-3-70b-instruct-v1:0, itself only until 2027-03-30), "
        "or the same weights are at vllm, nim"
    ]


def test_a_successor_that_is_gone_at_the_cloud_is_looked_for_elsewhere():
    [warning] = retirement_warnings([CATALOG.row("vertex", "llama-3.1-8b")], TODAY, catalog=CATALOG)
    assert "is not offered, no date known; move to llama-3.3-70b at databricks, oci, vllm" in warning


def test_without_the_catalogue_a_warning_still_names_the_successor():
    [warning] = retirement_warnings([row(in_days(7), successor="w2")], TODAY)
    assert warning == "acme w retires 2026-11-29, in 7 days; move to w2"


def test_weights_without_a_successor_lead_to_ones_own_servers():
    [warning] = retirement_warnings([row(in_days(7))], TODAY)
    assert "serve the weights yourself (vllm)" in warning


def test_the_most_urgent_comes_first():
    rows = [row(in_days(30), weights="b"), row(in_days(-3), weights="c"), row(offered=False, weights="a")]
    assert [line.split()[1] for line in retirement_warnings(rows, TODAY)] == ["a", "c", "b"]


def test_the_shipped_rows_were_judged_on_a_known_day():
    """What was gone, going and living on 2026-11-22, so that a changed date is seen in review."""
    warned = {tuple(line.split()[:2]) for line in retirement_warnings(CATALOG.rows(), TODAY)}
    alive = {(one.cloud, one.weights) for one in CATALOG.rows() if one.weights.startswith("llama-3.1")} - warned
    assert alive == {
        ("bedrock", "llama-3.1-8b"),
        ("bedrock", "llama-3.1-70b"),
        ("databricks", "llama-3.1-8b"),
        *(("nim", f"llama-3.1-{size}") for size in ("8b", "70b", "405b")),
        *(("vllm", f"llama-3.1-{size}") for size in ("8b", "70b", "405b")),
    }


def test_where_weights_live_the_surest_places_come_first():
    clouds = [(one.cloud, one.unverified) for one in CATALOG.live("llama-3.1-70b", TODAY)]
    assert clouds == [("vllm", False), ("bedrock", False), ("nim", True)]
    later = msgspec.structs.replace(CATALOG.row("bedrock", "llama-3.1-70b"), retires=TODAY)
    assert Catalog(CATALOG.known, [later]).live("llama-3.1-70b", TODAY) == ()
