"""Who may use which kept connection: a bound, a stack of idle ones, a queue of waiters. No sockets, no clock, no await.

Rule 1. A slot is a connection that is open, being opened, or idle; there are never more than `limit`.
Rule 2. The last connection given back is the first one taken; waiters are served in the order they came.
Rule 3. Nobody waits while a slot is free or a connection is idle, and nobody overtakes a waiter.
Rule 4. Every `take`, `reserve` or answered waiter is followed by exactly one `put` or `free`.
"""

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

C = TypeVar("C")
C_contra = TypeVar("C_contra", contravariant=True)


class Waiter(Protocol[C_contra]):
    """What a future is: answered once with a connection, or with None for leave to open one."""

    def done(self) -> bool: ...

    def set_result(self, result: C_contra | None, /) -> None: ...


class Pool(Generic[C]):
    """The slots of one origin. The owner opens, closes and expires connections as it is told here."""

    __slots__ = ("_waiting", "idle", "limit", "open")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.open = 0  # slots taken, idle ones included
        self.idle: list[C] = []
        self._waiting: OrderedDict[Waiter[C], None] = OrderedDict()

    @property
    def leased(self) -> int:
        return self.open - len(self.idle)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self) -> C | None:
        """The idle connection used last, if there is one."""
        return self.idle.pop() if self.idle else None

    def reserve(self) -> bool:
        """A slot for a new connection, if there is one."""
        if self.open >= self.limit:
            return False
        self.open += 1
        return True

    def enqueue(self, waiter: Waiter[C]) -> None:
        """Wait for a connection or a slot; only after `take` and `reserve` had none."""
        self._waiting[waiter] = None

    def forget(self, waiter: Waiter[C]) -> None:
        """The waiter went away before it was answered."""
        self._waiting.pop(waiter, None)

    def put(self, connection: C) -> bool:
        """A leased connection comes back fit for another request; whether it is idle now."""
        waiter = self._next_waiter()
        if waiter is not None:
            waiter.set_result(connection)
            return False
        self.idle.append(connection)
        return True

    def free(self) -> None:
        """A leased connection is gone, or a reserved one was never opened."""
        waiter = self._next_waiter()
        if waiter is None:
            self.open -= 1
        else:
            waiter.set_result(None)

    def drop_idle(self, connection: C) -> None:
        """An idle connection is gone. Nobody waits while one is idle, so there is nobody to serve."""
        self.idle.remove(connection)
        self.open -= 1

    def _next_waiter(self) -> Waiter[C] | None:
        while self._waiting:
            waiter, _ = self._waiting.popitem(last=False)
            if not waiter.done():  # a cancelled one has gone, though its task has not run yet
                return waiter
        return None
