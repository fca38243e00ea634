"""A route as it runs: its lanes, each a deployment with all that a call at it touches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.account import Account
from gateway.health import Facts
from gateway.metrics import Bound
from gateway.router import Attempt, NamedPolicy
from gateway.types import NANO_PER_USD, Candidate, Deployment, Provider, Usage


class Lane:
    """One deployment of one route with all that its calls touch. `view` is what policies saw of it last; it stays true
    while the `stamp` of its facts is the same, but for what moves by time alone: prices of own GPUs and error rates."""

    __slots__ = ("bound", "deployment", "drains", "facts", "moves_with_time", "provider", "stamp", "stream_end", "view")

    def __init__(
        self, deployment: Deployment, facts: Facts, provider: Provider, bound: Bound, account: Account
    ) -> None:
        self.deployment, self.facts, self.provider, self.bound = deployment, facts, provider, bound
        self.stream_end, self.drains = account.stream_end, account.on_disconnect == "drain"
        self.view: Candidate | None = None
        self.stamp = -1
        self.moves_with_time = True

    def look(self, now: float) -> Candidate:
        """What is known of it now."""
        self.view = view = self.facts.view(self.deployment, now)
        self.stamp = self.facts.version + self.facts.account.version
        self.moves_with_time = bool(self.deployment.gpu_nano_per_s or view.error_rate)
        return view

    def charge(self, attempt: Attempt, usage: Usage, nano: int, wall: float) -> None:
        """What an attempt cost, written down wherever it counts. Once an attempt."""
        attempt.usage, attempt.cost_nano, attempt.cost_estimated = usage, nano, usage.estimated
        self.facts.spend(nano, wall)
        self.bound.cost.inc(nano / NANO_PER_USD)
        if usage.estimated:
            self.bound.estimated.inc()


class Route(NamedTuple):
    """A public name and what stands behind it."""

    name: str
    aliases: Sequence[str]
    weights: str | None
    lanes: Mapping[str, Lane]
    policies: Sequence[NamedPolicy]

    def candidates(self, now: float) -> list[Candidate]:
        """What is known of every lane now."""
        views = []
        for lane in self.lanes.values():
            view, facts = lane.view, lane.facts
            if view is None or lane.stamp != facts.version + facts.account.version or lane.moves_with_time:
                view = lane.look(now)
            views.append(view)
        return views
