"""What a call needs and a deployment cannot do: features and the number of stop strings. Nothing about lengths."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Deployment, Frozen, Missing, Selection, instead, lacking
from policies._reasons import short, without


class Capability(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the deployments that have every feature the call uses and take as many stop strings.

    `missing: emulate` keeps those, too, where the gateway stands in for what they lack; `lossy` also those where it may
    be left out. Who is kept so is named in the remark, with what and how.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "may"
    order_independent: ClassVar[bool] = True

    missing: Missing = "strict"

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        used, stops = call.features, call.stop_count
        removed: dict[str, str] = {}
        done: dict[str, list[str]] = {}  # such as {"n emulated": ["groq", "aws"]}
        for candidate in candidates:
            deployment = candidate.deployment
            if used <= deployment.features and (not stops or not lacking(call, deployment)):
                continue  # nearly all
            lacks = sorted(lacking(call, deployment))
            how = {feature: instead(feature, call, deployment, self.missing) for feature in lacks}
            if not all(how.values()):
                removed[deployment.name] = _reason(call, deployment, [name for name, word in how.items() if not word])
                continue
            for feature, word in how.items():
                done.setdefault(f"{feature} {word}", []).append(deployment.name)
        kept = without(candidates, removed)
        note = "; ".join(f"{what} at {', '.join(names)}" for what, names in done.items())
        return Selection(kept.kept, removed, short(note)) if note else kept


def _reason(call: Call, deployment: Deployment, lacks: Sequence[str]) -> str:
    words = [name for name in lacks if name not in deployment.features]
    if words:
        return short("lacks " + ", ".join(words))
    return short(f"{call.stop_count} stop strings, takes {deployment.stop_limit}")
