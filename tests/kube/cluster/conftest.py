"""The namespace of the scenarios, which enforces Pod Security `restricted`."""

import pytest

from tests.kube.cluster.hands import NAMESPACE, kubectl, until


@pytest.fixture(scope="session", autouse=True)
def namespace() -> None:
    kubectl("create", "namespace", NAMESPACE)
    modes = (f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn"))
    kubectl("label", "namespace", NAMESPACE, *modes)
    until(lambda: "default" in kubectl("get", "serviceaccounts", "-o", "name"), "a service account")
