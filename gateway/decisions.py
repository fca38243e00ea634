"""The last decisions in memory, for `explain`: a ring of the lines that the ledger gets of calls.

Lines, not objects: what a call was made of is free again at once, and the next one is made in memory that is warm."""

from collections import OrderedDict

KEPT = 1024


class Decisions:
    """The last `size` lines, by the id of the decision and of the request."""

    def __init__(self, size: int = KEPT) -> None:
        self.size = size
        self._lines: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._by_request: dict[str, str] = {}

    def keep(self, id_: str, request_id: str, line: bytes) -> None:
        self._lines[id_] = request_id, line
        self._by_request[request_id] = id_
        if len(self._lines) > self.size:
            old, (request, _) = self._lines.popitem(last=False)
            if self._by_request.get(request) == old:
                del self._by_request[request]

    def get(self, id_: str) -> bytes | None:
        """By decision id or by request id, the latest of that."""
        found = self._lines.get(id_) or self._lines.get(self._by_request.get(id_, ""))
        return found[1] if found is not None else None

    def latest(self, count: int) -> list[bytes]:
        """The latest first."""
        return [line for _, line in list(self._lines.values())[-count:]][::-1]
