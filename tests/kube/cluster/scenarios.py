"""The chart on a real cluster, by `make cluster`: upgraded, rolled back, drained and killed under load.

Each scenario goes on where the one before it left the cluster. Files of another name than test_* are not collected by
`make test`: the cluster is made by run.sh, and takes root and minutes."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.kube.cluster.hands import HERE, NAMESPACE, facts, helm, kubectl, left, models, pods, ready, service, until
from tests.kube.cluster.load import NO_CONNECTION, Load, Seen
from tests.kube.tools import CHART

KEY = "key-of-team-a"
RATE_PER_S = float(os.environ.get("CLUSTER_RATE", "200"))
STREAMS = int(os.environ.get("CLUSTER_STREAMS", "50"))
AFTER_S = 3.0


def under_load(work: Callable[[], None], before_s: float = 2.0, share: float = 1.0) -> Seen:
    """Does the work while clients call, or a share of them; what they saw."""
    rate_per_s, streams = RATE_PER_S * share, round(STREAMS * share)

    async def run() -> Seen:
        async with Load(service(), KEY, rate_per_s, streams) as load:
            await asyncio.sleep(before_s)
            await asyncio.to_thread(work)
            await asyncio.sleep(AFTER_S)
        return load.seen

    seen = asyncio.run(run())
    print(seen.text())
    assert seen.calls > rate_per_s
    assert seen.streams >= streams
    return seen


def nobody_noticed(seen: Seen) -> None:
    assert (seen.failed, seen.cut) == ([], []), seen.text() + "\n" + facts()


def test_a_first_run_needs_no_values_and_answers_a_real_call():
    said = helm("install", "demo", CHART, "--values", HERE / "node.yaml", "--wait", "--timeout", "3m")
    assert "DEMO on the built-in sandbox" in said
    helm("test", "demo", "--timeout", "2m")
    key = kubectl("get", "secret", "demo-arriero-key", "-o", "jsonpath={.data.ARRIERO_KEY}")
    helm("upgrade", "demo", CHART, "--reset-then-reuse-values", "--set", "replicaCount=1", "--wait", "--timeout", "3m")
    assert kubectl("get", "secret", "demo-arriero-key", "-o", "jsonpath={.data.ARRIERO_KEY}") == key
    helm("uninstall", "demo", "--wait")


def put(url: str, body: bytes) -> int:
    """The status; 0 when nobody answers (yet)."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="PUT"), timeout=30) as response:
            return int(response.status)
    except OSError:
        return 0


def test_it_is_installed_where_pod_security_is_restricted_and_helm_test_calls_it():
    kubectl("apply", "-f", str(HERE / "clouds.yaml"))
    kubectl("rollout", "status", "daemonset/clouds", "--timeout=120s")
    address = kubectl("get", "service", "clouds", "-o", "jsonpath={.spec.clusterIP}")
    pace = json.dumps({"ttft_s": 0.2, "tpot_s": 0.05}).encode()
    until(lambda: put(f"http://{address}:9100/_sandbox/vllm", pace) == 200, "the clouds have their pace")
    helm(
        "install",
        "arriero",
        CHART,
        "--values",
        HERE / "node.yaml",
        "--values",
        HERE / "values.yaml",
        "--wait",
        "--timeout",
        "3m",
    )
    helm("test", "arriero", "--timeout", "2m")


def upgrade(*arguments: str) -> None:
    helm("upgrade", "arriero", CHART, "--reuse-values", *arguments, "--wait", "--timeout", "5m")


def test_a_rolling_upgrade_is_not_noticed():
    nobody_noticed(under_load(lambda: upgrade("--set", "image.tag=next")))
    assert {p["spec"]["containers"][0]["image"] for p in pods() if ready(p)} == {"localhost/arriero:next"}


def test_a_rollback_is_not_noticed():
    nobody_noticed(under_load(lambda: (helm("rollback", "arriero", "1", "--wait", "--timeout", "5m"), None)[1]))
    until(
        lambda: {p["spec"]["containers"][0]["image"] for p in pods() if ready(p)} == {"localhost/arriero:0.1.0"}, "back"
    )


def evict(name: str) -> bool:
    """As `kubectl drain` does for each pod; whether the disruption budget lets it."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction"
    done = subprocess.run(
        ["kubectl", "create", "--raw", path, "-f", "-"], input=json.dumps(body), capture_output=True, text=True
    )
    assert done.returncode == 0 or "disruption budget" in done.stderr, done.stderr
    return done.returncode == 0


def test_evictions_respect_the_budget_and_are_not_noticed():
    refused = []

    def drain() -> None:
        first, second = (p["metadata"]["name"] for p in pods() if ready(p))
        assert evict(first)
        refused.append(not evict(second))
        until(lambda: sum(map(ready, pods())) == 2, "two pods again")
        until(lambda: evict(second), "the second one may go")
        until(lambda: sum(map(ready, pods())) == 2, "two pods at the end")

    nobody_noticed(under_load(drain))
    assert refused == [True]


def test_a_drained_node_keeps_the_budget_and_is_not_noticed(tmp_path: Path):
    """There is one node: while it takes no new pod, the budget must hold the second one back."""
    said = tmp_path / "said"
    before = {p["metadata"]["name"] for p in pods()}
    words = ["kubectl", "drain", "node1", "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=200s"]

    def drain() -> None:
        with said.open("w") as out, subprocess.Popen(words, stdout=out, stderr=out) as draining:
            try:
                until(lambda: "violate the pod's disruption budget" in said.read_text(), "the budget holds one back")
                until(lambda: any(p["status"]["phase"] == "Pending" for p in pods()), "the other has no place to go")
                assert [p["metadata"]["name"] in before for p in pods() if ready(p)] == [True]
                assert draining.poll() is None
            finally:
                kubectl("uncordon", "node1")
            assert draining.wait(200) == 0, said.read_text()
        until(lambda: sum(map(ready, pods())) == 2, "two pods at the end")

    nobody_noticed(under_load(drain))
    assert not before & {p["metadata"]["name"] for p in pods() if ready(p)}


def processes_of(pod: str) -> list[int]:
    """Process ids on this machine, by the pod's name in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and f"HOSTNAME={pod}\0".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


GONE_WITH_IT = ("nothing was answered", "ConnectionResetError after the connection stood")


def test_a_killed_pod_costs_its_own_calls_alone():
    victim = next(p["metadata"]["name"] for p in pods() if ready(p))

    def kill() -> None:
        found = processes_of(victim)
        assert found
        for process in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        until(lambda: sum(map(ready, pods())) == 2, "it is back")

    seen = under_load(kill, before_s=5.0)
    live = [words for words in seen.failed if words in GONE_WITH_IT]
    refused = seen.failed.count(NO_CONNECTION)  # at a service's address until the cluster has seen that the pod is gone
    assert len(live) + refused == len(seen.failed), seen.text()
    assert len(seen.cut) + len(live) <= STREAMS + RATE_PER_S * 0.2, seen.text()
    assert refused <= RATE_PER_S * 0.1, seen.text()
    restarts = {p["metadata"]["name"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods()}
    assert sorted(restarts.values()) == [0, 1]


def test_a_changed_config_map_is_taken_up_by_every_pod_in_place():
    names = {p["metadata"]["name"] for p in pods()}

    def change() -> None:
        upgrade("--set", "config.routes.extra.deployments={groq}", "--set", "config.routes.extra.weights=llama-3.1-8b")
        until(lambda: all("extra" in models(KEY) for _ in range(20)), "every pod offers the new route", patience_s=180)

    nobody_noticed(under_load(change))
    assert {p["metadata"]["name"] for p in pods()} == names


def test_a_broken_config_is_refused_before_anything_changes():
    said = helm(
        "upgrade",
        "arriero",
        CHART,
        "--reuse-values",
        "--set",
        "config.routes.quick.deployments={nobody}",
        "--set",
        "rollOnConfigChange=true",
        "--atomic",
        "--timeout",
        "25s",
        fails=True,
    )
    assert "rolled back" in said
    assert "quick" in models(KEY)
    helm("upgrade", "arriero", CHART, "--reuse-values", "--set", "config.rout.x=1", fails=True)
    assert all(ready(p) for p in pods() if p["status"]["phase"] == "Running")


def test_a_failed_upgrade_rolls_back_unnoticed():
    def fail() -> None:
        said = helm(
            "upgrade",
            "arriero",
            CHART,
            "--reuse-values",
            "--set",
            "image.tag=nowhere",
            "--set",
            "image.pullPolicy=Never",
            "--atomic",
            "--timeout",
            "15s",
            fails=True,
        )
        assert "rolled back" in said

    nobody_noticed(under_load(fail))


def test_redis_restarts_without_a_failed_soft_call():
    team = "config.keys[0].name=team-a,config.keys[0].key=env:TEAM_A_KEY,config.keys[0].limits.rpm=1000000"
    values = ("redis.enabled=true", "redis.persistence.enabled=false", "config.store.redis=env:REDIS_URL", team)
    upgrade(*(word for value in values for word in ("--set", value)))

    def restart() -> None:
        kubectl("delete", "pod", "arriero-redis-0", "--grace-period=1")
        until(lambda: any(map(ready, pods("app.kubernetes.io/component=redis"))), "Redis is back")

    nobody_noticed(under_load(restart))


LEFT = (
    "deployments,statefulsets,services,configmaps,secrets,ingresses,networkpolicies,poddisruptionbudgets,serviceaccounts,"
    "horizontalpodautoscalers,persistentvolumeclaims"
)
AUTOSCALING = (
    "enabled=true,minReplicas=2,maxReplicas=4,cpuPercent=40,"
    "behavior.scaleDown.stabilizationWindowSeconds=15,behavior.scaleDown.policies[0].type=Pods,"
    "behavior.scaleDown.policies[0].value=2,behavior.scaleDown.policies[0].periodSeconds=15"
)


def test_load_brings_pods_and_quiet_takes_them_away_unnoticed():
    """By the CPU that the load costs, as the real metrics-server reads it from the kubelet."""
    fewest: list[int] = []

    def serving() -> int:
        fewest.append(sum(map(ready, pods())))
        return fewest[-1]

    def more() -> None:
        upgrade("--set", ",".join(f"autoscaling.{word}" for word in AUTOSCALING.split(",")))
        until(lambda: serving() > 2, "load brings a pod", patience_s=240)

    def fewer() -> None:
        until(lambda: serving() == 2 == len(pods()), "quiet takes it away", patience_s=240)

    nobody_noticed(under_load(more))
    nobody_noticed(under_load(fewer, share=0.04))
    assert min(fewest) == 2


def test_nothing_is_left_after_uninstall():
    helm("uninstall", "arriero", "--wait", "--timeout", "3m")
    until(lambda: pods("app.kubernetes.io/instance=arriero") == [], "its pods are gone")
    assert left(LEFT) == ""
