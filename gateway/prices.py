"""Exact money: list prices as whole nano-dollars, their text, and what own GPUs cost per token. No clock, no I/O.

Rule 1. Money is an int of nano-dollars; a price is nano-dollars per one million tokens. Text is the only other form.
Rule 2. Own GPUs cost the same idle or busy: the loaded price spreads that over the tokens that really flowed.
Rule 3. One more call at a server with room costs nothing; at a full one it costs what every token there costs.
"""

import math
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from gateway.types import NANO_PER_USD, TOKENS_PER_PRICE, Price

MOST_USD = 1_000_000
"""The highest price: what is above is a mistake, and every cost stays within what a metric can hold."""
DECODE_SHARE = 0.8
"""Share of GPU time that goes into output tokens where the server does not tell; vLLM tells by its prefill and decode
time counters (`request_prefill_time_seconds`, `request_decode_time_seconds`)."""
LONE_PROMPT_TOKENS_PER_S = 200.0
LONE_OUTPUT_TOKENS_PER_S = 20.0
"""About what one lone call gets out of a server. Slower traffic than this is priced as this: see own_price."""
KV_THRESHOLD = 0.8
"""Up to this share of a full KV cache a server takes one more call without slowing the others."""
_SECONDS_PER_HOUR = 3600


def usd_to_nano(usd: str | int | float | Decimal) -> int:
    """US dollars as whole nano-dollars, exactly; a float counts as its shortest decimal text (2.68 is 2.68).

    Raises ValueError for what is not a number, is negative, or has digits below one nano-dollar."""
    try:
        nano = Decimal(str(usd)) * NANO_PER_USD
    except InvalidOperation as error:
        raise ValueError(f"{usd} is not an amount of US dollars") from error
    if not nano.is_finite() or nano < 0:
        raise ValueError(f"{usd} is not an amount of US dollars")
    if nano != nano.to_integral_value():
        raise ValueError(f"{usd} has digits below one nano-dollar")
    return int(nano)


def check_price(usd: Decimal) -> None:
    """Raises ValueError for what cannot be a price."""
    if usd_to_nano(usd) > MOST_USD * NANO_PER_USD:
        raise ValueError(f"{usd} is more than {MOST_USD:,} US dollars")


def list_price(input_usd: str | int | float | Decimal, output_usd: str | int | float | Decimal) -> Price:
    """The price of a cloud's list, given in US dollars per one million tokens."""
    return Price(usd_to_nano(input_usd), usd_to_nano(output_usd))


@lru_cache(maxsize=256)
def usd(nano: int) -> str:
    """Nano-dollars as plain decimal US dollars, exact, at least two decimals: 123_000 is 0.000123."""
    whole, rest = divmod(abs(nano), NANO_PER_USD)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nano < 0 else ''}{whole}.{decimals}"


def gpu_nano_per_s(usd_per_hour: str | int | float | Decimal, gpus: int) -> int:
    """What `gpus` GPUs at that hourly price cost each second, in nano-dollars, rounded half up."""
    return (usd_to_nano(usd_per_hour) * gpus * 2 + _SECONDS_PER_HOUR) // (2 * _SECONDS_PER_HOUR)


def own_price(
    nano_per_s: int, prompt_tokens_per_s: float, output_tokens_per_s: float, decode_share: float = DECODE_SHARE
) -> Price:
    """The fully loaded price of own GPUs: what they cost each second over the tokens they served in it, idle included.

    Output tokens carry `decode_share` of the cost, uncached prompt tokens the rest; one that flows alone carries all.
    Idle GPUs would cost infinitely much per token, so traffic below what one lone call gets is priced as that call: it
    pays for the whole server for as long as it alone would take."""
    prompt_share = 1.0 if prompt_tokens_per_s > 0 >= output_tokens_per_s else 1.0 - decode_share
    output_share = 1.0 if output_tokens_per_s > 0 >= prompt_tokens_per_s else decode_share
    return Price(
        _per_million(nano_per_s * prompt_share, max(prompt_tokens_per_s, LONE_PROMPT_TOKENS_PER_S)),
        _per_million(nano_per_s * output_share, max(output_tokens_per_s, LONE_OUTPUT_TOKENS_PER_S)),
    )


def marginal_price(
    loaded: Price, *, kv_used: float | None, queue: int | None, kv_threshold: float = KV_THRESHOLD
) -> Price:
    """What one more call adds at own GPUs: nothing while the server has room, the loaded price once it has none.

    A server that does not tell its queue or its KV use (None) counts as one without room."""
    room = queue == 0 and kv_used is not None and kv_used < kv_threshold
    return Price(0, 0) if room else loaded


def _per_million(nano_per_s: float, tokens_per_s: float) -> int:
    return math.floor(nano_per_s / tokens_per_s * TOKENS_PER_PRICE + 0.5)
