"""Taking candidates away, and the words that more than one policy says then. Not a policy."""

from collections.abc import Mapping, Sequence

from gateway.types import Candidate, Selection

LONGEST = 120


def without(candidates: Sequence[Candidate], removed: Mapping[str, str]) -> Selection:
    """The candidates but those removed, in the order they came in."""
    if not removed:
        return Selection(candidates)
    return Selection([candidate for candidate in candidates if candidate.deployment.name not in removed], removed)


def short(reason: str) -> str:
    """A reason cut to what fits a log line: parts of it come from labels and clouds."""
    return reason if len(reason) <= LONGEST else reason[: LONGEST - 3] + "..."


def cooling(candidate: Candidate, now: float) -> str:
    """How much longer the cloud asked to be left alone, and how it said so."""
    why = f": {candidate.cooling_why}" if candidate.cooling_why else ""
    return short(f"cooling {candidate.cooling_until - now:.1f} s more{why}")
