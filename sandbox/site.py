"""The running state of one cloud of the box: its behaviour, limits, counters; clouds read it, the server owns it."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sandbox.behaviour import Behaviour, Fault, Strikes, behaviour
from sandbox.limits import Limiter


class Counters:
    """What the cloud has done since it began, for its own metrics."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.success: dict[str, int] = {}
        self.answers = 0
        self.prefill_s = 0.0
        self.decode_s = 0.0

    def served(self, prompt_tokens: int, tokens: int, prefill_s: float, decode_s: float) -> None:
        """Counts an answer that was begun, however it ended."""
        self.prompt_tokens += prompt_tokens
        self.generation_tokens += tokens
        self.answers += 1
        self.prefill_s += prefill_s
        self.decode_s += decode_s

    def succeeded(self, finishes: Sequence[str]) -> None:
        """Counts choices that came to their end; to the engine a tool call is a stop."""
        for finish in finishes:
            reason = "length" if finish == "length" else "stop"
            self.success[reason] = self.success.get(reason, 0) + 1


class Site:
    """One cloud's state. `now` is monotonic, `wall` is the time of day; both in seconds."""

    def __init__(self, name: str, now: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self.name, self.now, self.wall = name, now, wall
        self.began_wall = wall()
        self._numbers = itertools.count(1)
        self.running = 0
        self.counters = Counters()
        self.tokens: dict[str, float] = {}  # access tokens that were handed out, and until when they are good
        self._fields: dict[str, Any] = {}
        self._apply(Behaviour())

    def _apply(self, new: Behaviour) -> None:
        old = getattr(self, "behaviour", None)
        if old is None or old.limits != new.limits:
            self.limiter = Limiter(new.limits, self.now())
        self.behaviour = new
        self._strikes: dict[str, Strikes] = {m: Strikes(p.fault) for m, p in new.models.items() if p.fault is not None}
        if new.fault is not None:
            self._strikes[""] = Strikes(new.fault)

    def set(self, fields: Mapping[str, Any]) -> Behaviour:
        """Changes the named fields (None: back to the default), leaves the others; raises BehaviourError."""
        merged = {k: v for k, v in {**self._fields, **fields}.items() if v is not None}
        self._apply(behaviour(merged))
        self._fields = merged
        return self.behaviour

    def reset(self) -> None:
        """Back to the defaults, limits full and faults gone."""
        self._fields = {}
        self.tokens.clear()
        self.limiter = Limiter(Behaviour().limits, self.now())
        self._apply(Behaviour())

    def fault_for(self, model: str, method: str, path: str) -> Fault | None:
        """The fault that hits this call, which is then counted."""
        strikes = self._strikes.get(model) if model else None
        strikes = strikes or self._strikes.get("")
        if strikes is None:
            return None
        plainly = method == "POST" and not path.endswith("/token")
        aimed = path.startswith(strikes.fault.path) if strikes.fault.path else plainly
        return strikes.fault if aimed and strikes.next() else None

    def struck(self) -> int:
        """How many calls the present faults have hit."""
        return sum(strikes.hit for strikes in self._strikes.values())

    def next_number(self) -> int:
        return next(self._numbers)
