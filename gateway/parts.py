"""What every endpoint stands on, and the one reference that a new config replaces."""

from typing import NamedTuple

from gateway.auth import Keyring
from gateway.dispatch import Dispatcher
from gateway.fleet import Fleet
from gateway.limits.limiter import Limiter
from gateway.live import Live
from gateway.settle import Settlement


class Parts(NamedTuple):
    """What calls are answered with; put together in app.py from one config."""

    fleet: Fleet
    keyring: Keyring
    dispatcher: Dispatcher
    settlement: Settlement
    live: Live
    limiter: Limiter


class Current:
    """The parts in force. A call reads them once, when it begins, and ends on those whatever comes after."""

    __slots__ = ("parts",)

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
