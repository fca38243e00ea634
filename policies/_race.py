"""Fair draws by weight: a race in which the chance to arrive first is the share of the weight. Not a policy."""

import math
from collections.abc import Sequence

from gateway.types import Call, Candidate, dice


def arrival(chance: float, weight: float) -> float:
    """When a runner arrives, made from a number in [0, 1): exponential with the weight as its rate, never for weight 0.

    Of many runners each is first, second, ... with its share of the weight still running (Efraimidis, Spirakis 2006),
    and one that leaves or joins changes nothing between the others."""
    return -math.log1p(-chance) / weight if weight > 0.0 else math.inf


def drawn(call: Call, candidates: Sequence[Candidate], salt: str) -> list[Candidate]:
    """All candidates in the order of one such race, the same for the same call and salt; weight 0 last."""
    return sorted(candidates, key=lambda c: arrival(dice(call, salt + c.deployment.name), c.deployment.weight))
