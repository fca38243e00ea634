"""Who may see a call's data: its sensitivity label against accounts and trust classes. Nothing about places."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from gateway.types import Call, Candidate, Frozen, Selection
from policies._reasons import short, without

ANY = "*"
TRUST = "trust:"


class Sensitivity(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the deployments that are trusted with data of the call's sensitivity.

    `levels` lists for each value of `label` who is allowed: names of accounts, trust classes as `trust:private`, or `*`
    for everybody. The level `*` stands for every value that is not listed; without it such a call goes nowhere. A call
    without the label may go anywhere, unless `required`. In the config the levels stand beside the other options.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "may"
    order_independent: ClassVar[bool] = True
    EXAMPLE: ClassVar[Mapping[str, object]] = {"restricted": ["own"], "internal": ["own", "trust:private"]}

    levels: Mapping[str, tuple[str, ...]]
    label: str = "sensitivity"
    required: bool = False

    @classmethod
    def from_options(cls, options: object) -> "Sensitivity":
        """The policy from `{restricted: [own], required: true}`: every word but `label` and `required` is a level.

        Raises ValueError (msgspec.ValidationError among them) for what cannot be understood."""
        words = msgspec.convert(options, dict[str, object])
        own = {word: value for word, value in words.items() if word in ("label", "required")}
        levels = {word: value for word, value in words.items() if word not in own}
        for level, allowed in levels.items():
            if not isinstance(allowed, (list, tuple)) or not all(isinstance(name, str) for name in allowed):
                raise ValueError(f"{level} must be a list of accounts and trust classes, such as [own, trust:private]")
        return msgspec.convert({**own, "levels": levels}, cls)

    def __post_init__(self) -> None:
        if not self.label:
            raise ValueError("label must name a label, such as sensitivity")
        if not self.levels:
            raise ValueError("needs at least one level, such as restricted: [own]")
        for level, allowed in self.levels.items():
            if "" in allowed or TRUST in allowed:
                raise ValueError(f"{level} holds an empty name")

    @property
    def named(self) -> Mapping[str, Sequence[str]]:
        """The accounts that must be in the config: a misspelt one would be trusted with nothing."""
        names = dict.fromkeys(name for allowed in self.levels.values() for name in allowed)
        return {"account": [name for name in names if name != ANY and not name.startswith(TRUST)]}

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        level = call.labels.get(self.label)
        if level is None:
            if not self.required:
                return Selection(candidates)
            return _nobody(candidates, f"no label {self.label}, which is required")
        allowed = self.levels.get(level)
        if allowed is None:
            allowed = self.levels.get(ANY)
            if allowed is None:
                return _nobody(candidates, f"{self.label} {level} is not listed")
        if ANY in allowed:
            return Selection(candidates)
        removed: dict[str, str] = {}
        for candidate in candidates:
            deployment = candidate.deployment
            trust = deployment.trust
            if deployment.account not in allowed and (not trust or TRUST + trust not in allowed):
                words = f"{level} data, account {deployment.account} of trust {trust or 'unknown'}"
                removed[deployment.name] = short(words)
        return without(candidates, removed)


def _nobody(candidates: Sequence[Candidate], reason: str) -> Selection:
    reason = short(reason)
    return without(candidates, {candidate.name: reason for candidate in candidates})
