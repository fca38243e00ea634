"""What a caller is told of its limits: OpenAI's `x-ratelimit-*` headers, and the error when there is no room."""

from collections.abc import Mapping

from gateway.errors import ClientError, LimitError, ServiceError
from gateway.limits.book import Reading, Verdict
from gateway.limits.buckets import NEVER_US, Rule, period_ends_in_s
from gateway.limits.terms import Amounts, Terms
from gateway.prices import usd

UNITS: Mapping[str, str] = {"rpm": "requests", "tpm": "tokens"}


_REQUESTS, _TOKENS = (
    tuple(b"x-ratelimit-%b-%b" % (what, unit) for what in (b"limit", b"remaining", b"reset"))
    for unit in (b"requests", b"tokens")
)


def headers(verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """For requests and for tokens the limit that has the least left. Source: OpenAI's guide to rate limits."""
    found: list[tuple[bytes, bytes]] = []
    now_us, counters = verdict.now_us, verdict.counters
    for (limited, remaining, reset), rates in ((_REQUESTS, counters.requests), (_TOKENS, counters.tokens)):
        if rates:
            least, tightest = NEVER_US, rates[0]
            for rate in rates:
                if (left := rate.left(now_us)) < least:
                    least, tightest = left, rate
            found.append((limited, b"%d" % tightest.limit))
            found.append((remaining, b"%d" % least))
            found.append((reset, go_duration(tightest.tat_us - now_us)))
    return found


def go_duration(us: int) -> bytes:
    """As Go writes it and OpenAI's headers do: 17ms, 1.5s, 6m0s. Rounded up: who waits so long has waited enough."""
    millis = -(-us // 1000) if us > 0 else 0
    if millis < 1000:
        return b"%dms" % millis
    minutes, millis = divmod(millis, 60_000)
    seconds = f"{millis / 1000:.3f}".rstrip("0").rstrip(".")
    hours, minutes = divmod(minutes, 60)
    shown = f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"
    return shown.encode()


def never(rule: Rule, amount: int) -> ClientError:
    """The answer to a call that is larger than its whole limit."""
    if rule.kind == "budget":
        said = (
            f"This request may cost up to {usd(amount)} USD, which is more than the whole budget of "
            f"{_lower(rule)}, {usd(rule.limit)} USD{_per(rule)}: ask for fewer tokens with max_tokens."
        )
    else:
        said = (
            f"This request wants {amount} tokens, which is more than the {rule.limit} per minute of "
            f"{_lower(rule)}: it can never pass. Shorten it, or ask for fewer tokens with max_tokens."
        )
    return ClientError(400, "request_exceeds_limit", said, param="max_tokens")


def later(terms: Terms, wanted: Amounts, verdict: Verdict, wall_s: float) -> LimitError:
    """The answer to a call for which there is no room now."""
    place = verdict.refused or 0
    rule, reading = terms.rules[place], verdict.reading(place)
    told = {name.decode(): value.decode() for name, value in headers(verdict)}
    amount = terms.reserving(wanted)[place]
    if rule.kind == "budget":
        return _over_budget(rule, amount, reading, told, wall_s)
    if rule.kind == "concurrent":
        said = f"{rule.shown} may have {rule.limit} calls at once and has them: wait until one of them ends."
        return LimitError(429, "rate_limit_exceeded", said, type_="requests", retry_after_s=1.0, headers=told)
    unit = UNITS[rule.kind]
    said = (
        f"{rule.shown} has reached its limit of {rule.limit} {unit} per minute: {reading.left} left, "
        f"{amount} requested. Please try again in {go_duration(verdict.wait_us).decode()}."
    )
    wait_s = verdict.wait_us / 1e6
    return LimitError(429, "rate_limit_exceeded", said, type_=unit, retry_after_s=wait_s, headers=told)


def _over_budget(rule: Rule, amount: int, reading: Reading, told: dict[str, str], wall_s: float) -> LimitError:
    """Where calls that are under way hold what is missing, soon is soon enough; else it is the next period."""
    left, held = f"{usd(reading.left)} USD are left", ""
    if reading.held:
        held = f" {usd(reading.held)} USD are held by calls that are under way: send it again."
        wait_s: float | None = 1.0
    else:
        wait_s = period_ends_in_s(rule.per, wall_s)
        told["x-should-retry"] = "false"
    if reading.left:
        budget = f"the budget of {_lower(rule)}, {usd(rule.limit)} USD{_per(rule)}"
        said = f"This request may cost up to {usd(amount)} USD, and {left} of {budget}."
        said += held or " Ask for fewer tokens with max_tokens."
    else:
        said = f"{rule.shown} has used its budget of {usd(rule.limit)} USD{_per(rule)}.{held}"
    return LimitError(429, "insufficient_quota", said, type_="insufficient_quota", retry_after_s=wait_s, headers=told)


def unknown(rule: Rule) -> ServiceError:
    """The answer to a call under a hard budget of which nothing can be read now."""
    said = f"What is left of the budget of {_lower(rule)} cannot be known now: send the call again."
    return ServiceError(503, "overloaded", said, retry_after_s=1.0)


def _lower(rule: Rule) -> str:
    return rule.shown[0].lower() + rule.shown[1:]


def _per(rule: Rule) -> str:
    return "" if rule.per == "total" else f" a {rule.per}"
