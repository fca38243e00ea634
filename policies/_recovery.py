"""How long a failing deployment is left alone. Not a policy."""

from gateway.types import Candidate


def pause_s(candidate: Candidate, doublings: int, first_s: float, longest_s: float) -> float:
    """Seconds to wait after the last failure: `first_s`, doubled so many times, up to `longest_s`.

    Never longer than the failing has lasted, or `first_s`: calls in flight that break together are one failure, not
    twenty trials that failed one after the other. Where it is not told since when it fails, the count alone decides."""
    pause = min(longest_s, first_s * 2.0 ** max(0, min(doublings, 64)))
    if candidate.failing_since:
        pause = min(pause, max(first_s, candidate.failed_at - candidate.failing_since))
    return pause
