"""Calls and candidates for tests of policies: by hand with what matters said, and drawn with extreme values."""

import math
import random
from typing import Any

from hypothesis import strategies as st

from gateway.types import FEATURES, Call, Candidate, Deployment, Price, Quantiles, Room, Span, Speed, Spent, Tenant

NOW = 1000.0
FACTS = {field for field in Candidate.__struct_fields__ if field != "deployment"}


def call(number: int = 1, **said: Any) -> Call:
    """A chat call; its dice are the same for the same number."""
    said.setdefault("expected_output_tokens", 200)
    said.setdefault("prompt_tokens", 1000)
    tenant = Tenant(said.pop("tenant", "team-a"))
    said.setdefault("endpoint", "chat/completions")
    return Call(id=f"call-{number}", tenant=tenant, route="llama", model="llama", **said)


def candidate(name: str, **said: Any) -> Candidate:
    """A candidate by name; words of Candidate are facts, all others are about its deployment."""
    facts = {word: said.pop(word) for word in list(said) if word in FACTS}
    said.setdefault("account", name)
    deployment = Deployment(name=name, cloud="cloud", model="llama", **said)
    return Candidate(deployment=deployment, **facts)


def usd(input_: float, output: float) -> Price:
    """A price as lists give it: US dollars per one million tokens."""
    return Price(round(input_ * 1e9), round(output * 1e9))


def heard(
    p50_s: float, p95_s: float | None = None, *, samples: int = 20, age_s: float = 1.0, now: float = NOW
) -> Quantiles:
    return Quantiles(p50_s, p50_s if p95_s is None else p95_s, samples, now - age_s)


def names(candidates: Any) -> list[str]:
    return [candidate.name for candidate in candidates]


COUNTS = (0, 1, 2, 3, 5, 7, 20, 1_000, 2**31, 2**63, 2**70)
SHARES = (0.0, 1e-300, 0.01, 0.04, 0.05, 0.1, 0.19, 0.2, 0.5, 0.8, 0.95, 0.99, 1.0)
SECONDS = (0.0, 1e-9, 0.001, 0.2, 0.2001, 0.5, 0.8, 3.0, 1e6, 1e300, math.inf)
TIMES = (0.0, 1e-6, 900.0, 940.0, 990.0, 995.0, 999.9, 1000.0, 1000.1, 1002.4, 1300.0, 1e12, math.inf)
NOWS = st.sampled_from([0.0, 0.5, 990.0, 1000.0, 1001.0, 1e9])
WORDS = ("eu", "us", "eu-west-1", "us-east-1", "own", "groq", "private", "restricted", "internal", "", "x" * 500)
ORDINARY = 0.6
"""How much of what is drawn is left at its default, so that not everybody is extreme at once."""


def _deployment(chance: random.Random) -> dict[str, Any]:
    return {
        "account": chance.choice(("own", "groq", "third")),
        "context_tokens": chance.choice((None, *COUNTS)),
        "max_output_tokens": chance.choice((None, *COUNTS)),
        "features": frozenset(chance.sample(sorted(FEATURES), chance.randint(0, len(FEATURES)))),
        "stop_limit": chance.choice((None, 0, 4)),
        "emulates": frozenset(chance.sample(sorted(FEATURES), chance.randint(0, len(FEATURES)))),
        "weight": chance.choice((0.0, 1e-300, 0.5, 1.0, 2.0, 1e300, math.inf)),
        "tier": chance.randint(0, 3),
        "region": chance.choice((None, *WORDS)),
        "trust": chance.choice((None, *WORDS)),
    }


def _facts(chance: random.Random) -> dict[str, Any]:
    def quantiles() -> Quantiles | None:
        told = Quantiles(*chance.choices(SECONDS, k=2), chance.choice(COUNTS), chance.choice(TIMES))
        return chance.choice((None, told, told))

    def price() -> Price | None:
        return chance.choice((None, Price(*chance.choices(COUNTS, k=2))))

    facts = {
        "price": price(),
        "marginal": price(),
        "in_flight": chance.choice(COUNTS),
        "plain": Speed(quantiles(), quantiles()),
        "stream": Speed(quantiles(), quantiles()),
        "error_rate": chance.choice(SHARES),
        "recent": chance.choice(SECONDS),
        "failures": chance.choice(COUNTS),
        "failing_since": chance.choice(TIMES),
        "failed_at": chance.choice(TIMES),
        "cooling_until": chance.choice(TIMES),
        "cooling_why": chance.choice(WORDS),
        "room": Room(chance.choice(SHARES), chance.choice(TIMES), chance.choice(SHARES), chance.choice(TIMES)),
        "queue": chance.choice((None, *COUNTS)),
        "kv_used": chance.choice((None, *SHARES)),
        "spent_account": Spent(*chance.choices(COUNTS, k=3)),
        "spent": Spent(*chance.choices(COUNTS, k=3)),
    }
    return {word: value for word, value in facts.items() if chance.random() > ORDINARY}


POOL = [
    (_deployment(random.Random(f"deployment {number}")), _facts(random.Random(f"facts {number}")))
    for number in range(500)
]
"""What deployments and their facts can be; drawn from here, since to draw every field anew is too slow."""


@st.composite
def candidates(draw: st.DrawFn) -> list[Candidate]:
    """Up to 12 candidates with different names, nothing and extremes among their facts."""
    drawn = draw(st.lists(st.sampled_from(POOL), max_size=12))
    return [candidate(f"d{number}", **deployment, **facts) for number, (deployment, facts) in enumerate(drawn)]


BODY = b'{"messages": [{"role": "user", "content": "Hello"}]}'
CALLS = st.builds(
    call,
    number=st.integers(0, 1000),
    stream=st.booleans(),
    features=st.frozensets(st.sampled_from(sorted(FEATURES)), max_size=3),
    stop_count=st.integers(0, 8),
    prompt_tokens=st.sampled_from(COUNTS),
    max_output_tokens=st.sampled_from((None, *COUNTS)),
    expected_output_tokens=st.sampled_from(COUNTS),
    labels=st.dictionaries(st.sampled_from(["region", "sensitivity", "other"]), st.sampled_from(WORDS), max_size=2),
    session=st.sampled_from((None, *WORDS)),
    body=st.just(BODY),
    fields=st.sampled_from(({}, {"messages": Span(1, 12, len(BODY) - 1)})),
)
