"""A missing part skips by name at a desk and fails on CI."""

import pytest

from tests.needs import need


def test_what_is_there_lets_the_test_go_on():
    need("a thing", True, {"CI": "true"})


@pytest.mark.parametrize("env", [{}, {"CI": ""}, {"CI": "false"}, {"CI": "0"}])
def test_what_is_missing_skips_by_name_at_a_desk(env):
    with pytest.raises(pytest.skip.Exception, match="a thing"):
        need("a thing", False, env)


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_what_is_missing_fails_by_name_on_ci(value):
    with pytest.raises(pytest.fail.Exception, match="a thing"):
        need("a thing", False, {"CI": value})
