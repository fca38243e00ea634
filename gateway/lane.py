"""A route as it runs: its lanes, each a deployment with all that a call at it touches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.health import Facts
from gateway.metrics import Bound
from gateway.router import NamedPolicy
from gateway.types import Candidate, Deployment, Provider


class Lane:
    """One deployment of one route with all that its calls touch. The view for policies is kept until a fact changes."""

    __slots__ = ("_stamp", "_view", "bound", "deployment", "facts", "provider", "stream_end")

    def __init__(self, deployment: Deployment, facts: Facts, provider: Provider, bound: Bound, stream_end: str) -> None:
        self.deployment, self.facts, self.provider, self.bound = deployment, facts, provider, bound
        self.stream_end = stream_end
        self._stamp, self._view = -1, None  # type: tuple[int, Candidate | None]

    def candidate(self, now: float) -> Candidate:
        facts = self.facts
        view, stamp = self._view, facts.version + facts.account.version
        # prices of own GPUs and error rates move by time alone
        if view is None or stamp != self._stamp or self.deployment.gpu_nano_per_s or view.error_rate:
            self._view = view = facts.view(self.deployment, now)
            self._stamp = stamp
        return view


class Route(NamedTuple):
    """A public name and what stands behind it."""

    name: str
    aliases: Sequence[str]
    weights: str | None
    lanes: Mapping[str, Lane]
    policies: Sequence[NamedPolicy]
