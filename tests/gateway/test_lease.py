"""What an attempt holds is given back once."""

import pytest

from gateway.lease import Lease


def test_what_was_taken_last_is_given_back_first_and_once() -> None:
    given: list[str] = []
    with Lease() as lease:
        lease.callback(lambda: given.append("slot"))
        lease.callback(lambda: given.append("reply"))
        lease.close()
    assert given == ["reply", "slot"]


def test_what_was_handed_on_outlives_the_block() -> None:
    given: list[str] = []
    with Lease() as lease:
        lease.callback(lambda: given.append("slot"))
        handed_on = lease.pop_all()
    assert given == []
    handed_on.close()
    assert given == ["slot"]


def test_a_block_that_fails_gives_back_and_a_release_that_fails_hides_no_other() -> None:
    given: list[str] = []

    def broken() -> None:
        raise OSError("broken")

    lease = Lease()
    with pytest.raises(OSError, match="broken"), lease:  # noqa: PT012  (the lease is what raises)
        lease.callback(lambda: given.append("slot"))
        lease.callback(broken)
        raise ValueError("the block")
    lease.close()
    assert given == ["slot"]
