"""First things first: deployments by their tier. Nothing about why a tier is what it is."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection


class Tier(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Puts lower tiers first, each in the order it came in; the next tier serves only when the one before is empty.

    The tier is a field of the deployment, 1 where it is not said.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        return Selection(sorted(candidates, key=_tier))


def _tier(candidate: Candidate) -> int:
    return candidate.deployment.tier
