"""Every row of the catalogue is whole, and truthful where the suite can tell."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from gateway.catalog import FOLDER, Catalog
from gateway.types import FEATURES

CATALOG = Catalog.load()
ROWS = CATALOG.rows()
LLAMA = ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b")
EVERY = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.cloud}-{row.weights}")


@EVERY
def test_a_row_has_a_source_and_a_date_of_checking_not_in_the_future(row):
    assert len(row.source) > 10
    assert row.checked <= datetime.now(UTC).date()


@EVERY
def test_a_row_names_known_weights_and_features(row):
    assert CATALOG.weights(row.weights).name == row.weights
    assert row.features <= FEATURES.keys()
    assert "chat" in row.features
    assert row.stop_limit is None or "stop" in row.features


@EVERY
def test_a_streamed_tool_needs_streams_and_tools(row):
    assert "stream_tools" not in row.features or {"stream", "tools"} <= row.features
    assert not row.features & {"tool_choice", "parallel_tools"} or "tools" in row.features


@EVERY
def test_limits_are_sensible(row):
    window = CATALOG.weights(row.weights).context_tokens
    assert row.context_tokens is None or 1_000 <= row.context_tokens <= window
    assert row.max_output_tokens is None or row.max_output_tokens <= row.context_tokens


@EVERY
def test_a_price_is_never_a_preview_that_costs_nothing(row):
    for price in (row.price, row.batch, row.per_character):
        assert price is None or (price.input > 0 and price.output > 0)
    assert row.batch is None or row.batch.input * 2 == row.price.input
    assert row.cached_input is None or row.cached_input < row.price.input


@EVERY
def test_characters_are_billed_at_a_quarter_of_the_estimate_per_token(row):
    if row.per_character:
        assert (row.per_character.input * 4, row.per_character.output * 4) == (row.price.input, row.price.output)


@EVERY
def test_a_successor_is_known_and_lives_longer(row):
    if row.successor is None:
        return
    assert CATALOG.weights(row.successor), f"{row.successor} is in no row of weights.toml"
    assert row.successor != row.weights
    heirs = [heir for heir in ROWS if heir.weights == row.successor and heir.offered]
    there = [heir for heir in heirs if heir.cloud == row.cloud]
    ends = [heir.retires for heir in there or heirs]
    assert ends, "no cloud offers the successor"
    assert row.retires is None or any(end is None or end >= row.retires for end in ends)


@EVERY
def test_gone_weights_have_a_successor_that_is_not_gone(row):
    today = row.checked
    if not row.gone(today):
        return
    successor = row.successor or CATALOG.weights(row.weights).successor
    assert successor
    assert CATALOG.live(successor, today)


@EVERY
def test_doubt_is_explained(row):
    assert row.note or not row.unverified
    assert row.note or row.offered


@EVERY
def test_a_row_is_found_by_its_weights_their_aliases_and_its_ids(row):
    for name in (row.weights, row.weights.upper(), *CATALOG.weights(row.weights).aliases):
        assert CATALOG.row(row.cloud, name) is row
    for model in (row.id, row.id.upper(), *row.ids):
        assert CATALOG.by_id(row.cloud, model) is row


def test_ids_are_unique_within_a_cloud():
    ids = [(row.cloud, id_.casefold()) for row in ROWS for id_ in (row.id, *row.ids)]
    assert len(ids) == len(set(ids))


def test_weights_are_unique_within_a_cloud_and_names_among_all():
    places = [(row.cloud, row.weights) for row in ROWS]
    names = [name.casefold() for weights in CATALOG.known for name in (weights.name, *weights.aliases)]
    assert len(places) == len(set(places))
    assert len(names) == len(set(names))


def test_llama_3_1_has_a_row_of_every_size_at_every_cloud_that_serves_llama():
    clouds = {row.cloud for row in ROWS} - {"openai", "anthropic"}
    assert clouds == {"azure", "bedrock", "databricks", "groq", "nim", "oci", "vertex", "vllm"}
    assert all(CATALOG.row(cloud, weights) for cloud in clouds for weights in LLAMA)


def test_llama_3_1_can_still_be_called_somewhere_that_nobody_can_retire():
    for weights in LLAMA:
        row = CATALOG.row("vllm", weights)
        assert row in CATALOG.live(weights, row.checked)
        assert row.retires is None


def test_the_closed_baselines_are_there():
    assert not CATALOG.weights("gpt-4o").open
    assert CATALOG.row("openai", "gpt-4o").price.cost(1_000_000, 1_000_000) == 12_500_000_000
    assert CATALOG.row("anthropic", "claude-3.5-sonnet").price.output == 15_000_000_000


@pytest.mark.parametrize("weights", CATALOG.known, ids=lambda weights: weights.name)
def test_weights_lead_to_successors_without_a_circle(weights):
    seen = [weights.name]
    while weights.successor:
        weights = CATALOG.weights(weights.successor)
        assert weights.name not in seen
        seen.append(weights.name)


@pytest.mark.parametrize("weights", CATALOG.known, ids=lambda weights: weights.name)
def test_open_weights_have_a_size_and_closed_ones_none(weights):
    assert (weights.parameters_b is not None) == weights.open
    assert (weights.license == "proprietary") != weights.open
    assert weights.source
    assert weights.checked <= datetime.now(UTC).date()


@pytest.mark.parametrize(
    ("cloud", "weights", "offered", "refused"),
    [
        (
            "bedrock",
            "llama-3.1-70b",
            {"tools"},
            {"stream_tools", "tool_choice", "seed", "n", "logprobs", "penalties", "json_object"},
        ),
        ("azure", "llama-3.1-70b", {"seed", "penalties"}, {"tools", "json_object", "json_schema"}),
        (
            "groq",
            "llama-3.1-8b",
            {"json_object", "stream_tools"},
            {"n", "logprobs", "penalties", "logit_bias", "json_schema"},
        ),
        ("oci", "llama-3.1-70b", {"n", "logprobs", "tool_choice", "stream_tools"}, {"vision", "completions"}),
        ("databricks", "llama-3.1-8b", {"n", "tools"}, {"seed", "logprobs", "penalties"}),
        ("nim", "llama-3.1-8b", {"seed", "penalties", "tools"}, {"n", "logprobs"}),
        ("vllm", "llama-3.1-8b", set(FEATURES) - {"vision", "audio", "embeddings"}, {"vision", "audio", "embeddings"}),
    ],
)
def test_what_the_clouds_are_known_to_do(cloud, weights, offered, refused):
    features = CATALOG.row(cloud, weights).features
    assert offered <= features
    assert not refused & features


def test_the_files_name_no_address_of_a_package_registry():
    for path in FOLDER.glob("*.toml"):
        assert "://" not in path.read_text(encoding="utf-8"), path.name


def test_the_files_stay_small_enough_to_be_read_at_every_start():
    """29 kB load in about 10 ms; twice as much would still be well under 30."""
    assert sum(path.stat().st_size for path in FOLDER.glob("*.toml")) < 60_000


def test_the_module_wins_over_the_folder_of_the_same_name():
    code = "import gateway.catalog as c; print(c.__file__, len(c.Catalog.load().rows()) > 40)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0].endswith("catalog.py")
    assert done.stdout.split()[1] == "True"
