"""What a part of the suite needs of the machine. Absent, it is a loud skip at a desk and a failure on CI."""

import os
from collections.abc import Mapping

import pytest


def need(what: str, present: bool, env: Mapping[str, str] = os.environ) -> None:
    """Go on when `present`. Otherwise skip by the part's name, or fail where CI is set; also usable at module level."""
    if present:
        return
    if env.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"CI must not go without: {what}", pytrace=False)
    pytest.skip(f"not on this machine: {what}", allow_module_level=True)
