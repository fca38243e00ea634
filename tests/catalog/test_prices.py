"""Money is exact: dollars to nano-dollars and back, list prices, and what own GPUs cost per token."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prices import (
    LONE_OUTPUT_TOKENS_PER_S,
    LONE_PROMPT_TOKENS_PER_S,
    gpu_nano_per_s,
    list_price,
    marginal_price,
    own_price,
    usd,
    usd_to_nano,
)
from gateway.types import Price

TWO_DOLLARS_PER_HOUR = gpu_nano_per_s("2", 1)


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("2.68", 2_680_000_000),
        ("0.0375", 37_500_000),
        (2.68, 2_680_000_000),
        (0.1, 100_000_000),
        (16, 16_000_000_000),
        ("1e-9", 1),
        (Decimal("0.085"), 85_000_000),
        ("0", 0),
    ],
)
def test_dollars_become_whole_nano_dollars(text, nano):
    assert usd_to_nano(text) == nano


@pytest.mark.parametrize("text", ["", "two", "-1", "nan", "inf", "1e-10", "0.0000000001", "$2", True, None])
def test_what_is_not_an_exact_amount_is_refused(text):
    with pytest.raises(ValueError, match=r"dollars|nano"):
        usd_to_nano(text)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (123_000, "0.000123"),
        (1, "0.000000001"),
        (0, "0.00"),
        (2_680_000_000, "2.68"),
        (16_000_000_000, "16.00"),
        (500_000_000, "0.50"),
        (-10_000_000, "-0.01"),
        (12_345_678_901_234_567_890, "12345678901.23456789"),
    ],
)
def test_nano_dollars_are_shown_in_full(nano, text):
    assert usd(nano) == text


@given(st.integers(min_value=0, max_value=10**21))
def test_text_and_back_is_the_same_amount(nano):
    shown = usd(nano)
    assert usd_to_nano(shown) == nano
    assert "e" not in shown.lower()


def test_a_list_price_costs_what_the_list_says():
    assert list_price("2.68", "3.54").cost(1_000_000, 1_000_000) == usd_to_nano("6.22")


def test_gpus_cost_per_second():
    assert gpu_nano_per_s("3.60", 1) == 1_000_000
    assert gpu_nano_per_s("2.40", 2) == 1_333_333
    assert gpu_nano_per_s(0, 8) == 0


def test_two_dollars_an_hour_at_2500_output_tokens_a_second_is_22_cents_a_million():
    price = own_price(TWO_DOLLARS_PER_HOUR, 0, 2_500)
    assert usd(price.output)[:4] == "0.22"
    assert price.output == pytest.approx(222_222_222, abs=1_000)


def test_cost_is_split_between_prompt_and_output_by_gpu_time():
    price = own_price(TWO_DOLLARS_PER_HOUR, 10_000, 2_500, decode_share=0.8)
    assert price.output == pytest.approx(222_222_222 * 0.8, abs=1_000)
    assert price.input == pytest.approx(222_222_222 * 0.2 / 4, abs=1_000)


def test_half_the_traffic_doubles_the_price():
    busy, half = own_price(TWO_DOLLARS_PER_HOUR, 8_000, 2_000), own_price(TWO_DOLLARS_PER_HOUR, 4_000, 1_000)
    assert half.output == pytest.approx(2 * busy.output, abs=2)
    assert half.input == pytest.approx(2 * busy.input, abs=2)


def test_an_idle_server_is_priced_as_one_lone_call():
    lone = own_price(TWO_DOLLARS_PER_HOUR, LONE_PROMPT_TOKENS_PER_S, LONE_OUTPUT_TOKENS_PER_S)
    assert own_price(TWO_DOLLARS_PER_HOUR, 0, 0) == lone
    assert own_price(TWO_DOLLARS_PER_HOUR, 1e-12, 1e-12) == lone
    assert usd(lone.output).startswith("22.2")


def test_free_gpus_are_free():
    assert own_price(0, 0, 0) == Price(0, 0)


@given(
    st.integers(1, 10**9),
    st.floats(LONE_PROMPT_TOKENS_PER_S, 1e6),
    st.floats(LONE_OUTPUT_TOKENS_PER_S, 1e5),
    st.floats(0, 1),
)
def test_what_the_tokens_pay_is_what_the_gpus_cost(nano_per_s, prompt_per_s, output_per_s, decode_share):
    price = own_price(nano_per_s, prompt_per_s, output_per_s, decode_share)
    paid = (price.input * prompt_per_s + price.output * output_per_s) / 1e6
    rounding = (prompt_per_s + output_per_s) / 1e6 / 2
    assert paid == pytest.approx(nano_per_s, rel=1e-6, abs=rounding)


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1))
def test_no_traffic_makes_own_gpus_dearer_than_one_lone_call_alone(prompt_per_s, output_per_s, decode_share):
    price = own_price(1_000_000, prompt_per_s, output_per_s, decode_share)
    assert 0 <= price.input <= 1_000_000 * 1e6 / LONE_PROMPT_TOKENS_PER_S
    assert 0 <= price.output <= 1_000_000 * 1e6 / LONE_OUTPUT_TOKENS_PER_S


@pytest.mark.parametrize(
    ("kv_used", "queue", "free"),
    [(0.0, 0, True), (0.79, 0, True), (0.8, 0, False), (0.2, 1, False), (None, 0, False), (0.2, None, False)],
)
def test_one_more_call_is_free_only_while_the_server_has_room(kv_used, queue, free):
    loaded = Price(50_000_000, 200_000_000)
    assert marginal_price(loaded, kv_used=kv_used, queue=queue) == (Price(0, 0) if free else loaded)
