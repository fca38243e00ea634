"""Deciding: a call and its candidates through the route's policies to an order. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from gateway.errors import ArrieroError, ClientError, ServiceError
from gateway.types import DROPPABLE, Call, Candidate, Policy, Usage, lacking


class NamedPolicy(NamedTuple):
    """A policy under its word in the config."""

    name: str
    policy: Policy


class Attempt(msgspec.Struct):
    """One try: times in seconds on the monotonic clock; `outcome` is "ok" or a name of outcome.py."""

    candidate: Candidate
    began: float
    outcome: str = ""
    message: str = ""
    status: int = 0
    first_byte: float | None = None
    ended: float | None = None
    cost_nano: int = 0
    cost_estimated: bool = False
    usage: Usage | None = None
    degraded: Mapping[str, str] = {}
    span: str = ""

    @property
    def deployment(self) -> str:
        return self.candidate.deployment.name


class Decision(msgspec.Struct):
    """The order, which policy removed whom and why, remarks; then what became of it, filled in while it happens.
    `left`: its client is gone, and no further attempt is made."""

    id: str
    call: Call
    now: float
    wall: float
    policies: tuple[str, ...]
    candidates: Sequence[Candidate]
    removed: dict[str, tuple[str, str]]
    notes: list[tuple[str, str]]
    order: Sequence[Candidate]
    attempts: list[Attempt] = []
    left: bool = False


def decide(call: Call, candidates: Sequence[Candidate], policies: Sequence[NamedPolicy], now: float) -> Decision:
    """The policies top to bottom; stops when nobody is left. Decision.wall and .id are the caller's to fill."""
    left = candidates
    removed: dict[str, tuple[str, str]] = {}
    notes: list[tuple[str, str]] = []
    for name, policy in policies:
        selection = policy.apply(call, left, now)
        left = selection.kept
        if selection.removed:
            for candidate, reason in selection.removed.items():
                removed[candidate] = (name, reason)
        if selection.note:
            notes.append((name, selection.note))
        if not left:
            break
    return Decision("", call, now, 0.0, tuple([name for name, _ in policies]), candidates, removed, notes, left)


def nobody(decision: Decision) -> ArrieroError:
    """The answer to a call that no deployment may take, by the policy that removed the last."""
    if not decision.removed:
        return ServiceError(503, "no_deployment_available", "This model has no enabled deployment.", retry_after_s=60)
    last = list(decision.removed.values())[-1][0]
    story = "; ".join(f"{name}: {reason} ({policy})" for name, (policy, reason) in decision.removed.items())
    if last == "context_window":
        message = f"The prompt and the output asked for fit no deployment of '{decision.call.model}': {story}."
        return ClientError(400, "context_length_exceeded", message, param="messages")
    if last == "capability":
        lacks = f"No remaining deployment of '{decision.call.model}' offers what the request uses: {story}."
        message = lacks + offers(decision)
        return ClientError(400, "unsupported_feature", message, param=_param(decision))
    names = ", ".join(dict.fromkeys(policy for policy, _ in decision.removed.values()))
    message = f"Every deployment of '{decision.call.model}' was refused by policy ({names}): {story}."
    waits = [c.cooling_until - decision.now for c in decision.candidates if c.cooling_until > decision.now]
    return ServiceError(503, "no_deployment_available", message, retry_after_s=min(waits, default=5.0))


def _param(decision: Decision) -> str | None:
    """The parameter that asks for what the first refused deployment lacks, where it is one that could be left out."""
    removed = [c.deployment for c in decision.candidates if decision.removed.get(c.name, ("",))[0] == "capability"]
    asking = [name for feature in sorted(lacking(decision.call, removed[0])) for name in DROPPABLE.get(feature, ())]
    return next((name for name in asking if name in decision.call.fields), None)


def offers(decision: Decision) -> str:
    """Who offers each feature that somebody lacks."""
    wanted = decision.call.features
    lacking = {feature for c in decision.candidates for feature in wanted - c.deployment.features}
    parts = []
    for feature in sorted(lacking):
        names = [c.name for c in decision.candidates if feature in c.deployment.features]
        parts.append(f" '{feature}' is offered by {', '.join(names) if names else 'none of this model'}.")
    return "".join(parts)
