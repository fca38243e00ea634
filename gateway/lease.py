"""What an attempt holds and must give back, once, however it ends."""

from collections.abc import Callable
from typing import Self


class Lease:
    """contextlib.ExitStack for releases without arguments, at a fifth of its cost. The last one taken goes first.

    A release that raises leaves the ones before it for the next `close`."""

    __slots__ = ("_releases",)

    def __init__(self) -> None:
        self._releases: list[Callable[[], object]] = []

    def callback(self, release: Callable[[], object]) -> None:
        """To be called when the lease is closed."""
        self._releases.append(release)

    def pop_all(self) -> "Lease":
        """Hands everything on to a new lease; this one holds nothing then."""
        handed_on = Lease()
        handed_on._releases, self._releases = self._releases, []
        return handed_on

    def close(self) -> None:
        """Any number of times."""
        while self._releases:
            self._releases.pop()()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
