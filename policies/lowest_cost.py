"""The cheapest first, for this call. Nothing about speed: objective weighs both."""

import math
from collections.abc import Sequence
from operator import itemgetter
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection
from policies._cost import OwnGpus, expected_costs, own_gpus_lead
from policies._race import drawn
from policies._reasons import short


class LowestCost(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Puts first the deployment where this very call is expected to cost least.

    Prompt tokens at the price in plus the expected output tokens at the price out, in exact whole numbers. Equal costs
    keep the order they came in. `tolerance` lets those that cost at most that share more than the cheapest (0.1: ten
    per cent) share the calls by weight. `own_gpus: marginal` counts own GPUs with what one more call adds, `loaded`
    with their idle time. What has no price comes last.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    tolerance: float = 0.0
    own_gpus: OwnGpus = "marginal"

    def __post_init__(self) -> None:
        if not 0.0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be a share from 0 up, such as 0.1, not {self.tolerance}")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        priced: list[tuple[int, Candidate]] = []
        unpriced: list[Candidate] = []
        for candidate, cost in zip(candidates, expected_costs(call, candidates, self.own_gpus), strict=True):
            if cost is None:
                unpriced.append(candidate)
            else:
                priced.append((cost, candidate))
        priced.sort(key=itemgetter(0))
        order = [candidate for _, candidate in priced]
        if self.tolerance and len(priced) > 1:
            dearest = priced[0][0] + int(priced[0][0] * self.tolerance)
            near = sum(cost <= dearest for cost, _ in priced)
            order[:near] = drawn(call, order[:near], "lowest_cost:")
        note = own_gpus_lead(order, self.own_gpus)
        if not unpriced:
            return Selection(order, {}, short(note))
        names = ", ".join(candidate.name for candidate in unpriced)
        last = f"last, for want of a price: {names}"
        return Selection(order + unpriced, {}, short(f"{last}; {note}" if note else last))
