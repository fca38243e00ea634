"""What latency is to policies, what failures add to it, who is left alone and who is explored. Not a policy.

Rule 1. Streams and plain calls are told apart; nothing learned from one speaks for the other.
Rule 2. Latency is learned from successes, so a failure is charged FAILURE_S: a fast refusal must never look fast.
Rule 3. Who failed rests: last for REST_S, twice as long with each failure in a row, then tried by one call at a time.
Rule 4. A candidate is met on its first calls, one at a time; after that it is explored only by the dice.
"""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Literal, NamedTuple

from gateway.types import Call, Candidate, Frozen, dice
from policies._race import drawn
from policies._reasons import short
from policies._recovery import pause_s

FAILURE_S = 5.0
"""What one failed try is charged: the penalty of Linkerd's load biaser."""
REST_S = 5.0
LONGEST_REST_S = 300.0
MEET_CALLS = 3
"""Samples that a first opinion is made of."""


class Explored(NamedTuple):
    """Who goes first although it is not the best known, and why."""

    candidate: Candidate
    note: str


class Latency(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options that policies which look at latency have in common."""

    metric: Literal["ttft", "total"] = "ttft"
    percentile: Literal["p50", "p95"] = "p50"
    explore: float = 0.03
    stale_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.explore <= 1.0:
            raise ValueError(f"explore must be a share of the calls from 0 to 1, such as 0.03, not {self.explore}")
        if not 0.0 < self.stale_s < math.inf:
            raise ValueError(f"stale_s must be seconds above 0, not {self.stale_s}")

    def latency_s(self, call: Call, candidate: Candidate) -> float | None:
        """Seconds by `metric` and `percentile`, failures charged; None where nothing was learned for such calls."""
        speed = candidate.stream if call.stream else candidate.plain
        ttft, tpot = speed.ttft, speed.tpot
        if ttft is None:
            return None
        seconds = ttft.p50_s if self.percentile == "p50" else ttft.p95_s
        if self.metric == "total" and tpot is not None:
            per_token = tpot.p50_s if self.percentile == "p50" else tpot.p95_s
            seconds = total_s(call, seconds, per_token)
        return charged_s(seconds, candidate) if candidate.error_rate else seconds

    def to_explore(
        self, call: Call, usable: Sequence[Candidate], best: Candidate | None, now: float
    ) -> Explored | None:
        """Who of the usable goes before the best known, to be met or explored; None most of the time."""
        free = [candidate for candidate in usable if not candidate.in_flight and candidate is not best]
        if not free:
            return None
        met = self._to_meet(call, free, best, now)
        if met is not None or dice(call, "explore") >= self.explore:
            return met
        age_s, oldest = 0.0, None
        for candidate in free:
            heard = candidate.speed(call.stream).ttft
            age = math.inf if heard is None else now - heard.updated
            if age > self.stale_s and age > age_s:
                age_s, oldest = age, candidate
        if oldest is None:
            return None
        age_text = "no sample yet" if age_s == math.inf else f"last sample {age_s:.0f} s old"
        return Explored(oldest, short(f"exploring {oldest.name}: {age_text}"))

    def _to_meet(self, call: Call, free: Sequence[Candidate], best: Candidate | None, now: float) -> Explored | None:
        """The one with fewest samples among those that never failed and are not met yet.

        Without any sample it is met in any case; with fewer than MEET_CALLS while these are fresh and the best known
        has no more than that. So meeting ends, and what is forgotten later comes under the share of exploring."""
        led = best.speed(call.stream).ttft if best is not None else None
        enough = MEET_CALLS if led is None or led.samples <= MEET_CALLS else 1
        fewest, newcomer = enough, None
        for candidate in free:
            heard = candidate.speed(call.stream).ttft
            samples = 0 if heard is None else heard.samples
            if samples < fewest and not candidate.failures and (heard is None or now - heard.updated <= self.stale_s):
                fewest, newcomer = samples, candidate
        if newcomer is None:
            return None
        return Explored(newcomer, short(f"meeting {newcomer.name}: {fewest} of {MEET_CALLS} first samples"))


def total_s(call: Call, ttft_s: float, tpot_s: float) -> float:
    """Seconds to the whole answer: the first token and the expected ones. A plain call's time per token covers both."""
    if not call.expected_output_tokens:
        return ttft_s
    written_s = tpot_s * call.expected_output_tokens
    return ttft_s + written_s if call.stream else written_s


def charged_s(seconds: float, candidate: Candidate) -> float:
    """Seconds until an answer if failed tries cost FAILURE_S each, at its error rate; one attempt is weak evidence."""
    if candidate.recent <= 0.0:
        return seconds
    rate = min(0.99, candidate.error_rate / (1.0 + 1.0 / candidate.recent))
    return (seconds + FAILURE_S * rate) / (1.0 - rate)


def rests_until(candidate: Candidate, now: float) -> float | None:
    """Until when it is put last: it cools, failed a while ago, or is being tried after that; None if it may lead."""
    until = candidate.cooling_until if candidate.cooling_until > now else None
    if candidate.failures:
        rested = candidate.failed_at + pause_s(candidate, candidate.failures - 1, REST_S, LONGEST_REST_S)
        if rested > now:
            return rested if until is None else max(rested, until)
        if until is None and candidate.in_flight:
            return now
    return until


def rested(resting: list[tuple[float, Candidate]], now: float) -> tuple[list[Candidate], str]:
    """Those who rest, the soonest back first, and a word about the soonest."""
    resting.sort(key=itemgetter(0))
    until, soonest = resting[0]
    why = f" after {soonest.failures} failures" if soonest.failures else ""
    return [candidate for _, candidate in resting], short(f"{soonest.name} rests {until - now:.1f} s more{why}")


def led_by(first: Candidate, order: Sequence[Candidate]) -> list[Candidate]:
    """The order with that one moved to its head."""
    return [first, *(candidate for candidate in order if candidate is not first)]


def spread(call: Call, unknown: Sequence[Candidate]) -> list[Candidate]:
    """Candidates of whom nothing is known: fewest calls in flight first, in the order of a draw by weight."""
    return sorted(drawn(call, unknown, "unknown:"), key=_in_flight)


def _in_flight(candidate: Candidate) -> int:
    return candidate.in_flight
