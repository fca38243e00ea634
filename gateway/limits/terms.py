"""The limits that a key is under at a route, all together: what is read of them once for all of its calls."""

from collections.abc import Sequence

from gateway.limits.buckets import NEVER_US, Rule
from gateway.types import Frozen


class Amounts(Frozen, frozen=True, gc=False):
    """What a call takes of limits: tokens as it will probably use them, nano-dollars probably and at most, and the most
    output tokens of a choice with which that is the most."""

    tokens: int
    expected_nano: int
    most_nano: int
    cap: int


class Terms:
    """The rules of a key at a route. Counters are kept by them, so they are equal only to themselves."""

    __slots__ = ("_places", "expects", "hard", "largest_nano", "largest_tokens", "rules")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        budgets = [rule for rule in rules if rule.kind == "budget"]
        self.hard = any(rule.hard for rule in budgets)
        self.expects = any(not rule.hard for rule in budgets)
        self.largest_tokens = min((rule.limit for rule in rules if rule.kind == "tpm"), default=NEVER_US)
        self.largest_nano = min((rule.limit for rule in budgets if rule.hard), default=NEVER_US)
        self._places = [_place(rule) for rule in rules]

    def reserving(self, wanted: Amounts) -> Sequence[int]:
        """What a call asks of each rule."""
        of = (1, 1, wanted.tokens, wanted.expected_nano, wanted.most_nano)
        return [of[place] for place in self._places]

    def settling(self, tokens: int, nano: int) -> Sequence[int]:
        """What it really took of each, in the end."""
        of = (1, 0, tokens, nano, nano)
        return [of[place] for place in self._places]


def _place(rule: Rule) -> int:
    """Which of a call's numbers a rule counts."""
    if rule.kind == "budget":
        return 4 if rule.hard else 3
    return {"rpm": 0, "concurrent": 1, "tpm": 2}[rule.kind]
