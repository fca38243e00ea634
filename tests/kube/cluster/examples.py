"""Every values file before a real API server, and each example for people installed, by `make cluster`."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.kube.cluster.hands import HERE, NAMESPACE, helm, kubectl, left, models, pods, ready, until
from tests.kube.tools import CACHE, CHART, ROOT, template, values_files

EXAMPLES = {path.stem: path for path in (ROOT / "helm" / "values").glob("*.yaml")}
LEFT = (
    "deployments,pods,services,configmaps,secrets,ingresses,networkpolicies,persistentvolumeclaims,poddisruptionbudgets,"
    "serviceaccounts,horizontalpodautoscalers,servicemonitors,prometheusrules"
)
SECRETS = {
    "arriero-clouds": ["AWS_BEARER_TOKEN_BEDROCK", "DATABRICKS_TOKEN", "TEAM_A_KEY", "TEAM_B_KEY"],
    "arriero-secrets": ["AWS_BEARER_TOKEN_BEDROCK", "DATABRICKS_TOKEN", "TEAM_A_KEY", "ADMIN_TOKEN"],
    "arriero-keys": ["TEAM_A_KEY"],
    "hugging-face": ["HF_TOKEN"],
}
"""What the examples say must be there before."""


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    """The definitions of custom resources, the Secrets of the examples, a zone for the node."""
    kubectl("apply", "--server-side", "-f", str(CACHE / "crds"))
    for name, entries in SECRETS.items():
        kubectl("create", "secret", "generic", name, *(f"--from-literal={entry}=the-{entry}" for entry in entries))
    kubectl("label", "node", "node1", "topology.kubernetes.io/zone=a")


@pytest.mark.parametrize("file", values_files(), ids=lambda path: path.stem)
def test_the_api_server_takes_it_without_a_warning(file: Path):
    """Strictly, with the operators' own rules, and with what Pod Security has to say."""
    rendered = template("--values", file, "--skip-tests")
    assert rendered.returncode == 0, rendered.stderr
    words = ["kubectl", "-n", NAMESPACE, "apply", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = subprocess.run(words, input=rendered.stdout, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_installed_serves_and_leaves_nothing(name: str):
    """Without GPUs, without clouds, and with the image that this node has."""
    node = "resources.requests.cpu=100m,global.imageRegistry="
    said = helm("install", "arriero", CHART, "--values", EXAMPLES[name], "--values", HERE / "node.yaml", "--set", node)
    assert "TEAM_A_KEY" in said
    kubectl("rollout", "status", "deployment/arriero", "--timeout=120s")
    values = yaml.safe_load(EXAMPLES[name].read_text())
    wanted = values.get("autoscaling", {}).get("minReplicas") or values.get("replicaCount", 2)
    until(lambda: sum(map(ready, pods())) == wanted, f"{wanted} pods")
    assert models("the-TEAM_A_KEY") >= set(values["config"]["routes"])  # and their aliases
    helm("uninstall", "arriero", "--wait", "--timeout", "3m")
    until(lambda: left(LEFT) == "", "nothing is left")
