"""The namespace of the scenarios, which enforces Pod Security `restricted`, and how long they may take."""

import os
import time

import pytest

from tests.kube.cluster.hands import HERE, NAMESPACE, kubectl, until

SCENARIO_S = 300.0
"""What no scenario takes, on a slow machine either: the longest takes a fifth of it."""
NOT_UP = 75
"""The exit code of run.sh for what the machine, not the chart, is to blame for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(SCENARIO_S))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """None begins that could outlast CLUSTER_ENDS; those before it have passed, else there were no next one."""
    ends = os.environ.get("CLUSTER_ENDS")
    if ends and time.time() + SCENARIO_S > float(ends):
        pytest.exit(f"OUT OF TIME: {item.name} and what comes after it did not run, and prove nothing", NOT_UP)


@pytest.fixture(scope="session", autouse=True)
def namespace() -> None:
    kubectl("create", "namespace", NAMESPACE)
    modes = (f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
    kubectl("label", "namespace", NAMESPACE, *modes)
    until(lambda: "default" in kubectl("get", "serviceaccounts", "-o", "name"), "a service account")
