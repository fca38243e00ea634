"""Shares of the traffic by weight, for canaries and comparisons. Nothing about load, price or speed."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection
from policies._race import drawn


class Weighted(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Draws the whole order by weight, the same each time for the same call.

    Each deployment is first with its share of the weights, and who follows is drawn by the weights that are left, so
    that fallbacks are shared too. The weight is a field of the deployment, 1 where it is not said; 0 comes last.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        return Selection(drawn(call, candidates, "weighted:"))
