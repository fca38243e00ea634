"""How far a cloud's clock is from ours: learned when it refuses a signature, from the Date of its refusal.

Rule 1. Only a Date that explains the refusal is believed: one that is farther from the time signed than LEAST_S.
Rule 2. What was learned is kept for the next calls, and learned anew when it is refused in its turn: clocks are set."""

import email.utils
import time
from collections.abc import Callable, Mapping

LEAST_S = 120.0
"""AWS and Oracle take five minutes; a Date is in whole seconds and some seconds old."""


class CloudClock:
    """The time of day as a cloud has it, as far as is known. Seconds since the epoch."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall, self.offset_s = wall, 0.0

    def __call__(self) -> float:
        return self._wall() + self.offset_s

    def learn(self, headers: Mapping[str, str], signed_at: float) -> bool:
        """Whether a refusal's headers say that what was signed at that time was signed at a wrong one."""
        try:
            theirs = email.utils.parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        if abs(theirs - signed_at) < LEAST_S:
            return False
        self.offset_s = theirs - self._wall()
        return True
