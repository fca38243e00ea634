"""The decisions kept for `explain`: a ring in memory, and how one is shown."""

from collections import OrderedDict

import msgspec

from gateway.router import Decision

KEPT = 4096


class Kept(msgspec.Struct):
    """A decision and how its call ended."""

    decision: Decision
    status: int
    code: str
    seconds: float


class Decisions:
    """The last KEPT decisions, by their id and by the request's."""

    def __init__(self, size: int = KEPT) -> None:
        self.size = size
        self._by_id: OrderedDict[str, Kept] = OrderedDict()
        self._by_request: dict[str, str] = {}

    def keep(self, decision: Decision, status: int, code: str, seconds: float) -> None:
        self._by_id[decision.id] = Kept(decision, status, code, seconds)
        self._by_request[decision.call.id] = decision.id
        if len(self._by_id) > self.size:
            old, kept = self._by_id.popitem(last=False)
            if self._by_request.get(kept.decision.call.id) == old:
                del self._by_request[kept.decision.call.id]

    def get(self, id_: str) -> Kept | None:
        """By decision id or by request id, the latest of that."""
        return self._by_id.get(id_) or self._by_id.get(self._by_request.get(id_, ""))

    def latest(self, count: int) -> list[Kept]:
        return [self._by_id[id_] for id_ in list(self._by_id)[-count:]][::-1]
