"""Values that contradict each other fail `helm template` with a sentence that names the fix."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.tools import template

CONFIG: dict[str, Any] = {
    "providers": {"groq": {"type": "groq", "api_key": "env:GROQ_API_KEY"}},
    "routes": {"llama-3.1-8b": {"deployments": ["groq"]}},
    "keys": [{"name": "a", "key": "env:A"}],
}

OPEN = {"networkPolicy": {"enabled": False}}


def config(**more: Any) -> dict[str, Any]:
    return {"config": {**CONFIG, **more}}


def account(**fields: Any) -> dict[str, Any]:
    return config(
        providers={"own": {"type": "vllm", **fields}}, routes={"r": {"deployments": [{"account": "own", "model": "m"}]}}
    )


CASES: list[tuple[dict[str, Any], str]] = [
    (
        config(keys=[]),
        "add `config.keys: [{name: team-a, key: env:TEAM_A_KEY}]`, or say `config.server.allow_anonymous: true`",
    ),
    (config(keys=[{"name": "a", "key": "sk-1"}]), "config.keys[0].key is written out"),
    (config(admin={"tokens": [{"name": "a", "token": "t"}]}), "config.admin.tokens[0].token is written out"),
    (account(url="https://x/v1", api_key="sk-1"), "config.providers.own.api_key is written out"),
    (account(url="http://vllm.llama:8000/v1"), "name that server in `networkPolicy.egress.extra`"),
    (
        config(keys=[{"name": "a", "key": "env:A", "budget": {"usd": 1, "per": "day", "hard": True}}]),
        "key 'a' has hard limits, and 2 replicas cannot keep them without shared state: set `redis.enabled: true`",
    ),
    (
        config(teams=[{"name": "all", "limits": {"rpm": 10}}]),
        "team 'all' has hard limits, and 2 replicas cannot keep them without shared state: set `redis.enabled: true`",
    ),
    (
        config(routes={"r": {"deployments": ["groq"], "budget": {"usd": 1, "per": "day", "hard": True}}}),
        "route 'r' has hard limits, and 2 replicas cannot keep them",
    ),
    (config(store={"redis": "rediss://u:p@redis.example.com:6380/0"}), "config.store.redis is written out"),
    (config(store={"ledger": "postgresql://u:p@db/arriero"}), "config.store.ledger is written out"),
    (
        config(telemetry={"otlp": "https://otel.example.com", "headers": {"authorization": "Bearer x"}}),
        "config.telemetry.headers.authorization is written out",
    ),
    ({"tests": {"key": "sk-1"}}, "tests.key is written out"),
    (
        config(telemetry={"otlp": "http://otel:4318"}),
        "config.telemetry.otlp is http://otel:4318, and the NetworkPolicy",
    ),
    (
        config(store={"redis": "env:REDIS_URL"}) | {"redis": {"existingSecret": "x"}},
        "redis.existingSecret names a server that the NetworkPolicy does not let the gateway reach",
    ),
    (
        config(store={"ledger": "env:DATABASE_URL"}) | {"postgresql": {"existingSecret": "x"}},
        "postgresql.existingSecret names a server that the NetworkPolicy does not let the gateway reach",
    ),
    (config(store={"redis": "env:REDIS_URL"}), "config.store.redis is env:REDIS_URL, which nothing sets"),
    (config(store={"ledger": "env:DATABASE_URL"}), "set `postgresql.existingSecret`"),
    (config() | {"auth": {"existingSecret": "x"}}, "leave auth.existingSecret out"),
    (
        config() | {"vllm": {"enabled": True}},
        'add `config.providers.own: {type: vllm, url: "http://arriero-vllm:8000/v1"}`',
    ),
    ({"redis": {"enabled": True, "existingSecret": "x"}} | OPEN, "choose one"),
    (config() | {"redis": {"enabled": True}}, "say `config.store.redis: env:REDIS_URL`, or turn redis off"),
    (config() | OPEN | {"postgresql": {"existingSecret": "pg"}}, "say `config.store.ledger: env:DATABASE_URL`"),
    ({"ingress": {"enabled": True}}, "set `ingress.host`"),
    ({"ingress": {"enabled": True, "host": "https://x/"}}, "set it to the host alone"),
    ({"service": {"nodePort": 30080}}, "set `service.type: NodePort`"),
    ({"service": {"clusterIP": "None", "type": "LoadBalancer"}}, "choose"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "set it to 1"),
    (
        {"autoscaling": {"enabled": True, "keda": {"enabled": True}}},
        "set `autoscaling.metric: in_flight` or `loop_lag`",
    ),
    ({"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}, "set `resources.requests.cpu`"),
    (
        {"workloadIdentity": {"aws": {"roleArn": "arn:x"}}, "serviceAccount": {"create": False}},
        "annotate default yourself and leave workloadIdentity.aws out",
    ),
    ({"ingress": {"enabled": True, "host": "x"}}, "set `ingress.tls.secretName` or `ingress.tls.certManagerIssuer`"),
    ({"httpRoute": {"enabled": True}}, "set `httpRoute.parentRefs"),
    ({"autoscaling": {"enabled": True, "minReplicas": 9, "maxReplicas": 3}}, "raise one or lower the other"),
    ({"externalSecrets": {"enabled": True}}, "set `externalSecrets.storeRef.name`"),
    ({"externalSecrets": {"enabled": True, "storeRef": {"name": "v"}}}, "set `externalSecrets.data`"),
    ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "choose one"),
    ({"workloadIdentity": {"oci": {"enabled": True}}}, "needs `workloadIdentity.oci.region`"),
    ({"vllm": {"enabled": True, "offline": True}}, "set `vllm.cache.existingClaim`"),
    (
        config(),
        "nothing sets what the config reads, env:A, env:GROQ_API_KEY: name the Secret that holds it in `secrets.env`",
    ),
    (
        config(keys=[{"name": "a", "key": "file:/etc/arriero/secrets/A"}]) | {"secrets": {"env": ["clouds"]}},
        "where the config reads, file:/etc/arriero/secrets/A: name the one that holds it in `secrets.files`",
    ),
    (
        config() | {"externalSecrets": {"enabled": True, "storeRef": {"name": "v"}, "dataFrom": [{}]}},
        "nothing sets what the config reads, env:A",
    ),
]


@pytest.mark.parametrize(("values", "words"), CASES, ids=[words[:50] for _, words in CASES])
def test_a_contradiction_names_its_fix(values: dict[str, Any], words: str, tmp_path: Path):
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = template("--values", file)
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (config(routs={}), "additional properties 'routs' not allowed"),
        (config(routes={"r": {"deployments": []}}), "minItems"),
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"autoscaling": {"metric": "moon"}}, "value must be one of"),
        ({"image": {"digest": "latest"}}, "does not match pattern"),
    ],
)
def test_a_word_that_nobody_knows_is_refused_by_the_schema(values: dict[str, Any], words: str, tmp_path: Path):
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = template("--values", file)
    assert done.returncode == 1
    assert words in done.stderr
