"""The same caller to the same place: sessions and prompt prefixes to the cache that knows them. Nothing about speed."""

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection, chance
from policies._race import arrival
from policies._reasons import short

FREE_CALLS = 4
"""Calls in flight that a deployment may always hold: below that, fair shares are a matter of one call more or less."""
PROMPT_FIELDS = ("messages", "prompt", "input")


class Sticky(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sends calls of one session, or with one beginning of the prompt, to the same deployment while it has room.

    `by: session` takes the session that the caller named, `by: prefix` the first `prefix_bytes` of the messages as they
    stand in the body, for prefix caches. The order is a rendezvous hash by weight: a deployment that leaves moves only
    its own sessions, one that joins takes only its share. One that holds more than `load_factor` times its fair share
    of the calls in flight comes after the others (bounded loads: Mirrokni, Thorup, Zadimoghaddam 2018). Without a
    session the order stays as it came.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "order"
    order_independent: ClassVar[bool] = True

    by: Literal["session", "prefix"] = "session"
    prefix_bytes: int = 512
    load_factor: float = 1.25

    def __post_init__(self) -> None:
        if self.prefix_bytes < 1:
            raise ValueError(f"prefix_bytes must be at least 1, not {self.prefix_bytes}")
        if not self.load_factor >= 1.0:
            raise ValueError(f"load_factor must be at least 1 (times the fair share), not {self.load_factor}")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        key = self._key(call)
        if key is None or len(candidates) < 2:
            return Selection(candidates)
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        order = sorted(candidates, key=lambda c: arrival(chance(seed, c.deployment.name), c.deployment.weight))
        full = self._over_their_share(candidates)
        if not full:
            return Selection(order)
        note = (
            short(f"{order[0].name} holds more than its share, {order[0].in_flight} calls")
            if order[0].name in full
            else ""
        )
        return Selection(sorted(order, key=lambda c: c.name in full), {}, note)

    def _key(self, call: Call) -> bytes | None:
        if self.by == "session":
            return f"{call.tenant.name}/{call.session}".encode("utf-8", "surrogatepass") if call.session else None
        for field in PROMPT_FIELDS:
            span = call.fields.get(field)
            if span is not None:
                return call.body[span.start : min(span.end, span.start + self.prefix_bytes)]
        return None

    def _over_their_share(self, candidates: Sequence[Candidate]) -> set[str]:
        """Who would hold more than `load_factor` times its share by weight if this call came too."""
        if all(candidate.in_flight < FREE_CALLS for candidate in candidates):
            return set()
        allowed = self.load_factor * (1 + sum(candidate.in_flight for candidate in candidates))
        weights = sum(candidate.deployment.weight for candidate in candidates)
        return {
            c.name
            for c in candidates
            if c.in_flight >= FREE_CALLS and (c.in_flight + 1) * weights > allowed * c.deployment.weight
        }
