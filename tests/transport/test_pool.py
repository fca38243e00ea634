"""The pool beside a model of it: random leases, returns, losses and cancellations."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.transport.pool import Pool

LIMIT = 3


class Turn:
    """A waiter as the pool sees it: a future with nobody behind it."""

    def __init__(self) -> None:
        self.cancelled = False
        self.answers: list[int | None] = []

    def done(self) -> bool:
        return self.cancelled or bool(self.answers)

    def set_result(self, result: int | None, /) -> None:
        assert not self.done()
        self.answers.append(result)


class PoolBesideItsModel(RuleBasedStateMachine):
    """Connections are numbers. A caller holds a connection or leave to open one (None)."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[int] = Pool(LIMIT)
        self.opened = 0
        self.held: list[int | None] = []
        self.idle: list[int] = []
        self.line: deque[Turn] = deque()

    @rule()
    def ask(self) -> None:
        taken = self.pool.take()
        if taken is not None:
            assert taken == self.idle.pop()  # the last one given back
            self.held.append(taken)
        elif self.pool.reserve():
            self.held.append(None)
        else:
            assert len(self.held) == LIMIT  # nobody waits while there is room
            turn = Turn()
            self.pool.enqueue(turn)
            self.line.append(turn)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def open_or_give_back(self, which: int) -> None:
        at = which % len(self.held)
        connection = self.held[at]
        if connection is None:
            self.opened += 1
            self.held[at] = self.opened
            return
        del self.held[at]
        next_in_line = self._next_in_line()
        assert self.pool.put(connection) is (next_in_line is None)
        if next_in_line is None:
            self.idle.append(connection)
        else:
            self._granted(next_in_line, connection)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99))
    def lose(self, which: int) -> None:
        del self.held[which % len(self.held)]
        next_in_line = self._next_in_line()
        self.pool.free()
        if next_in_line is not None:
            self._granted(next_in_line, None)

    @precondition(lambda self: self.idle)
    @rule(which=st.integers(0, 99))
    def lose_an_idle_one(self, which: int) -> None:
        self.pool.drop_idle(self.idle.pop(which % len(self.idle)))

    @precondition(lambda self: self.line)
    @rule(which=st.integers(0, 99), at_once=st.booleans())
    def leave_the_line(self, which: int, at_once: bool) -> None:
        turn = self.line[which % len(self.line)]
        turn.cancelled = True
        if at_once:  # else its task has not run yet, and the pool must find out by itself
            self.pool.forget(turn)
            self.line.remove(turn)

    def _next_in_line(self) -> Turn | None:
        while self.line:
            turn = self.line.popleft()
            if not turn.cancelled:
                return turn
        return None

    def _granted(self, turn: Turn, connection: int | None) -> None:
        assert turn.answers == [connection]  # first come, first served, and nothing lost
        self.held.append(connection)

    @invariant()
    def agrees(self) -> None:
        assert self.pool.idle == self.idle
        assert self.pool.leased == len(self.held)
        assert self.pool.open == len(self.held) + len(self.idle) <= LIMIT
        assert self.pool.waiting == len(self.line)
        assert not (self.idle and any(not turn.cancelled for turn in self.line))


TestPoolBesideItsModel = PoolBesideItsModel.TestCase
TestPoolBesideItsModel.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
