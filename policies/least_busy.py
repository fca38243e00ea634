"""Away from the crowd: fewer calls in flight first, of two drawn at random. Nothing about speed."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection, dice


class LeastBusy(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Draws two deployments and puts the less busy one first: the power of two choices.

    Busy is our own calls in flight plus the calls that wait in the server's own queue, where it tells. The rest
    follows, less busy first. Always taking the least busy would send every gateway to the same one at once; of two
    drawn ones the better is nearly as good and never a stampede (Mitzenmacher 2001).
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        count = len(candidates)
        if count < 2:
            return Selection(candidates)
        first = int(dice(call, "first of two") * count)
        second = int(dice(call, "second of two") * (count - 1))
        second += second >= first
        if _busy(candidates[second]) < _busy(candidates[first]):
            first, second = second, first
        rest = [candidate for index, candidate in enumerate(candidates) if index not in (first, second)]
        rest.sort(key=_busy)
        return Selection([candidates[first], candidates[second], *rest])


def _busy(candidate: Candidate) -> int:
    return candidate.in_flight + (candidate.queue or 0)
