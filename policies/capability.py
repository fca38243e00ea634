"""What a call needs and a deployment cannot do: features and the number of stop strings. Nothing about lengths."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection
from policies._reasons import short, without


class Capability(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the deployments that have every feature the call uses and take as many stop strings.

    `missing: strict` removes the others. To emulate a feature or to drop it is not offered yet, and refused.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "may"
    order_independent: ClassVar[bool] = True

    missing: Literal["strict", "emulate", "lossy"] = "strict"

    def __post_init__(self) -> None:
        if self.missing != "strict":
            raise ValueError(f"missing: {self.missing} is not offered yet; use missing: strict")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        used, stops = call.features, call.stop_count
        removed: dict[str, str] = {}
        for candidate in candidates:
            deployment = candidate.deployment
            if not used <= deployment.features:
                removed[deployment.name] = short("lacks " + ", ".join(sorted(used - deployment.features)))
            elif stops and deployment.stop_limit is not None and stops > deployment.stop_limit:
                removed[deployment.name] = short(f"{stops} stop strings, takes {deployment.stop_limit}")
        return without(candidates, removed)
