"""Every pod of every values file is locked down; what kube-score finds beyond that is written here, with the reason."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kube.tools import MINORS, objects, template, tool, values_files
from tests.process import environment

GATEWAY, VLLM, REDIS, CALL = (
    "Deployment:arriero",
    "Deployment:arriero-vllm",
    "StatefulSet:arriero-redis",
    "Pod:arriero-test",
)
EXCEPTIONS: dict[str, dict[tuple[str, ...], str]] = {
    "ImagePullPolicy is not set to Always": {
        (GATEWAY, VLLM, REDIS, CALL): "tags are releases and digests are digests; Always needs the registry up"
    },
    "CPU limit is not set": {
        (GATEWAY, VLLM, REDIS, CALL): "throttling shows as latency, and requests already keep the share"
    },
    "The pod does not have a matching NetworkPolicy": {
        (CALL,): "it lives for one call",
        (GATEWAY,): "ipv6.yaml, which turns the policies off",
    },
    "Container has the same readiness and liveness probe": {(VLLM,): "it has one health path; patience differs"},
    "Deployment update strategy": {(VLLM,): "a second one would need a second GPU during the change"},
    "Deployment few replicas": {(GATEWAY,): "small.yaml is one pod", (VLLM,): "GPUs are dear"},
    "Deployment does not have a host podAntiAffinity set": {(VLLM,): "GPUs spread it by themselves"},
    "No matching PodDisruptionBudget was found": {(VLLM,): "a budget for one pod would block every drain"},
    "The container is running with a low user ID": {(GATEWAY, CALL): "openshift.yaml: the cluster chooses the user"},
    "The container running with a low group ID": {(GATEWAY, CALL): "openshift.yaml: the cluster chooses the user"},
    "The service is of type NodePort": {("Service:arriero",): "stores.yaml, whose choice it is"},
}
"""What kube-score finds, of which objects, and why it stays."""


@pytest.fixture(params=values_files(), ids=lambda path: path.stem)
def rendered(request: pytest.FixtureRequest) -> str:
    done = template("--values", request.param)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pods(rendered: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for found in objects(rendered):
        if found["kind"] in ("Deployment", "StatefulSet"):
            yield found["metadata"]["name"], found["spec"]["template"]["spec"]
        elif found["kind"] == "Pod":
            yield found["metadata"]["name"], found["spec"]


def scored(rendered: str) -> set[tuple[str, str]]:
    """What kube-score finds, and at which object."""
    done = subprocess.run(
        [tool("kube-score"), "score", "--kubernetes-version", f"v{MINORS[0]}", "--output-format", "json", "-"],
        input=rendered, capture_output=True, text=True, timeout=60, env=environment(),
    )  # fmt: skip
    return {
        (words, f"{found['type_meta']['kind']}:{found['object_meta']['name']}")
        for found in json.loads(done.stdout)
        for check in found["checks"]
        if check["grade"] < 7 and not check["skipped"]
        for words in ([comment["summary"] for comment in check["comments"] or []] or [check["check"]["name"]])
    }


def test_kube_score_finds_nothing_without_a_reason():
    found = {one for path in values_files() for one in scored(template("--values", path).stdout)}
    excepted = {(words, one) for words, known in EXCEPTIONS.items() for objects_ in known for one in objects_}
    assert found - excepted == set()
    assert excepted - found == set(), "a reason that nothing needs any more"


def test_every_pod_may_run_where_pod_security_is_restricted(rendered: str):
    found = list(pods(rendered))
    assert found
    for name, pod in found:
        assert pod["automountServiceAccountToken"] is False or "OCI_RESOURCE_PRINCIPAL_VERSION" in rendered, name
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("hostPath" not in volume for volume in pod.get("volumes", ()))
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_every_scratch_volume_has_a_size(rendered: str):
    for name, pod in pods(rendered):
        for volume in pod.get("volumes", ()):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), f"{name}: {volume['name']}"


def test_streams_end_before_a_pod_is_killed(rendered: str):
    (gateway,) = (found for found in objects(rendered) if found["kind"] == "Deployment" and _is_gateway(found))
    pod = gateway["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    leave_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    config = [o["data"]["arriero.yaml"] for o in objects(rendered) if "arriero.yaml" in (o.get("data") or {})]

    grace_s = (yaml.safe_load(config[0]).get("server") or {}).get("grace_s", 600) if config else 600
    assert pod["terminationGracePeriodSeconds"] > leave_s + grace_s + 10
    assert leave_s >= 3


def _is_gateway(found: dict[str, Any]) -> bool:
    return found["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"


def test_a_network_policy_denies_by_default(rendered: str, request: pytest.FixtureRequest):
    policies = [found["spec"] for found in objects(rendered) if found["kind"] == "NetworkPolicy"]
    if request.node.callspec.id == "ipv6":
        assert policies == []
        return
    gateway, *_ = policies
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies)
    admin = [rule for rule in gateway["ingress"] if any(port["port"] == "admin" for port in rule["ports"])]
    assert admin
    assert all(rule["from"] for rule in admin)
    outward = [rule for rule in gateway["egress"] if rule["ports"][0]["port"] == 443]
    for block in (to["ipBlock"] for rule in outward for to in rule["to"]):
        if block["cidr"] == "0.0.0.0/0":
            assert {"169.254.0.0/16"} <= set(block["except"]) or {"128.0.0.0/1"} <= set(block["except"])


def test_no_service_leads_an_ingress_to_the_admin_port(rendered: str):
    services = {found["metadata"]["name"]: found["spec"] for found in objects(rendered) if found["kind"] == "Service"}
    assert any(name.endswith("-admin") for name in services)
    for name, spec in services.items():
        if any(port["name"] == "admin" for port in spec["ports"]):
            assert spec["clusterIP"] == "None", name
            assert name.endswith("-admin")
