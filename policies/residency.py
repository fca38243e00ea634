"""Where a call may be served: the region that a label asks for against the account's. Nothing about trust."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection
from policies._reasons import short, without


class Residency(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the deployments in the region that the call's label asks for.

    `label` names the label. `map` says which regions a value stands for, exactly; a value that it does not hold means
    the region of that name or one whose name begins with it and a dash, so `eu` means `eu` and `eu-west-1`. A region
    that is not known is never allowed. A call without the label may go anywhere, unless `required`.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "may"
    order_independent: ClassVar[bool] = True

    label: str = "region"
    map: Mapping[str, tuple[str, ...]] = {}
    required: bool = False

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("label must name a label, such as region")
        for value, regions in self.map.items():
            if not regions:
                raise ValueError(f"map.{value} is empty, so that no deployment could ever serve it")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        asked = call.labels.get(self.label)
        if asked is None:
            return self._without_label(candidates) if self.required else Selection(candidates)
        regions, prefix = self.map.get(asked), asked + "-"
        removed: dict[str, str] = {}
        for candidate in candidates:
            region = candidate.deployment.region
            if region is None:
                removed[candidate.name] = short(f"region unknown, asked {asked}")
            elif regions is not None:
                if region not in regions:
                    removed[candidate.name] = short(f"region {region}, asked {asked}")
            elif region != asked and not region.startswith(prefix):
                removed[candidate.name] = short(f"region {region}, asked {asked}")
        return without(candidates, removed)

    def _without_label(self, candidates: Sequence[Candidate]) -> Selection:
        reason = short(f"no label {self.label}, which is required")
        return without(candidates, {candidate.name: reason for candidate in candidates})
