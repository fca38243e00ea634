"""Every conversation at every cloud comes out as the checked-in matrix says, and nothing in it fails."""

from collections.abc import Iterator

import pytest

from tests.conformance import matrix, pages
from tests.conformance.stage import Stage, staged


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with staged() as found:
        yield found


@pytest.mark.parametrize("cloud", matrix.CLOUDS)
@pytest.mark.parametrize("name", matrix.CONVERSATIONS)
def test_a_conversation_comes_out_as_the_matrix_says(stage: Stage, name: str, cloud: str) -> None:
    conversation, golden = matrix.CONVERSATIONS[name], matrix.golden()
    for mode in conversation.modes:
        came = stage.cell(conversation, cloud, mode)
        wanted = golden.get((name, mode), {}).get(cloud, "nothing: write it with `make matrix`")
        assert came == wanted, (
            f"{name} at {cloud}, {mode}: the matrix says {wanted}; if that is right, run `make matrix`"
        )


def test_nothing_in_the_matrix_fails() -> None:
    cells = [f"{name} at {cloud}: {came}" for (name, _), row in matrix.golden().items() for cloud, came in row.items()]
    assert [cell for cell in cells if "FAILS" in cell] == []


def test_the_matrix_has_every_cloud_and_conversation_and_no_other() -> None:
    golden = matrix.golden()
    assert list(golden) == matrix.ROWS
    assert {tuple(row) for row in golden.values()} == {tuple(matrix.CLOUDS)}


def test_there_are_at_least_sixty_conversations() -> None:
    assert len(matrix.CONVERSATIONS) >= 60
    assert all(one.modes for one in matrix.CONVERSATIONS.values())


def test_the_pages_are_what_the_matrix_makes_of_them() -> None:
    assert pages.stale() == [], "run `make matrix`"
