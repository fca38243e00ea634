"""The chart as it renders: each values file against its golden copy, the schemas of Kubernetes, rules of our own."""

import asyncio
import os
import re
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from gateway.commands.check import warnings
from gateway.config import loading
from gateway.reload import NEEDS_RESTART
from tests.kube.tools import CACHE, CHART, MINORS, ROOT, objects, readme, run, template, tool, values_files
from tests.needs import need

GOLDEN = ROOT / "tests" / "kube" / "golden"
FILES = values_files()
NAMES = [path.stem for path in FILES]
RANDOM = re.compile(r"^(  (?:ARRIERO_KEY|password): )\S+$", re.MULTILINE)
"""What a Secret of ours holds is made anew at every rendering."""


@pytest.fixture(params=FILES, ids=NAMES)
def rendered(request: pytest.FixtureRequest) -> str:
    done = template("--values", request.param)
    assert done.returncode == 0, done.stderr
    return RANDOM.sub(r"\1…", done.stdout)


@pytest.fixture
def found(rendered: str) -> list[dict[str, Any]]:
    return objects(rendered)


def test_there_are_values_enough():
    assert len(FILES) >= 12
    assert {"small", "production", "air-gapped", "gpu"} <= set(NAMES)


def test_it_renders_as_it_did(rendered: str, request: pytest.FixtureRequest):
    """`GOLDEN=write pytest tests/kube` takes what it is now; read the difference before you commit it."""
    kept = GOLDEN / f"{request.node.callspec.id}.yaml"
    if os.environ.get("GOLDEN") == "write":
        kept.write_text(rendered)
    assert kept.read_text() == rendered


def test_no_golden_file_is_left_over():
    assert sorted(path.stem for path in GOLDEN.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_helm_lint_is_silent(file: Path):
    done = run(tool("helm"), "lint", "--strict", "--quiet", "--kube-version", MINORS[-1], "--values", file, CHART)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("minor", MINORS)
def test_kubernetes_knows_every_field(minor: str, tmp_path: Path):
    rendered = []
    for file in FILES:
        done = template("--values", file, minor=minor)
        assert done.returncode == 0, done.stderr
        rendered += [found for found in objects(done.stdout) if _builtin(found)]
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(rendered))
    done = run(tool("kubernetes-validate"), "-k", minor, "--strict", path)
    assert done.returncode == 0, done.stdout + done.stderr


def _builtin(found: dict[str, Any]) -> bool:
    group = found["apiVersion"].partition("/")[0]
    return "." not in group or (group.endswith(".k8s.io") and group != "gateway.networking.k8s.io")


CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute", "ScaledObject", "ExternalSecret"}


def test_the_operators_know_every_field_of_what_is_theirs():
    """As an API server has it that refuses unknown fields, by the definitions that the operators install."""
    need("their definitions (tests/system.sh)", (CACHE / "crds").is_dir())
    schemas = {}
    for file in (CACHE / "crds").glob("*.yaml"):
        (defined,) = objects(file.read_text())
        for version in defined["spec"]["versions"]:
            of = f"{defined['spec']['group']}/{version['name']}", defined["spec"]["names"]["kind"]
            schemas[of] = jsonschema_rs.validator_for(strict(version["schema"]["openAPIV3Schema"]))
    seen = set()
    for path in FILES:
        for found in objects(template("--values", path).stdout):
            if not _builtin(found):
                seen.add(found["kind"])
                schemas[found["apiVersion"], found["kind"]].validate(found)
    assert seen == CUSTOM


def strict(schema: Any) -> Any:
    """The schema of a custom resource, such that a field it does not name is refused."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {word: strict(part) for word, part in schema.items()}
    if isinstance(schema.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        found.pop("additionalProperties", None)
    return found


def test_the_readme_is_made_of_the_values():
    page = readme()
    assert (CHART / "README.md").read_text() == page, "run `make chart`"
    assert [line for line in page.splitlines() if line.endswith("|  |")] == [], "say what they are: `# -- …`"


WRITTEN = date(2026, 11, 28)
"""When the examples were: nothing in them was to go soon, and each of their deployments had a price."""


URLS = {"REDIS_URL": "redis://:p@arriero-redis:6379/0", "DATABASE_URL": "postgresql://a:p@db.example.com/arriero"}


def test_the_config_that_is_mounted_is_the_config_of_the_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    found = {file: (yaml.safe_load(file.read_text() or "{}") or {}).get("config") for file in FILES}
    assert sum(map(bool, found.values())) >= 4
    for file, wanted in found.items():
        if not wanted:
            continue
        maps = [o for o in objects(template("--values", file).stdout) if o["kind"] == "ConfigMap"]
        (text,) = (o["data"]["arriero.yaml"] for o in maps if "arriero.yaml" in o["data"])
        assert yaml.safe_load(text) == wanted
        for name in re.findall(r"env:(\w+)", text):
            monkeypatch.setenv(name, URLS.get(name, f"the-{name}-of-{file.stem}"))
        for path in re.findall(r"file:(/[\w./-]+)", text):
            secret = tmp_path / Path(path).name
            secret.write_text(f"secret-{secret.name}")
            text = text.replace(f"file:{path}", f"file:{secret}")
        config = loading.parse(text)
        if file.parent.name == "values" and file.parents[1].name == "helm":
            assert asyncio.run(warnings(config, WRITTEN, reach=False)) == [], file.name


PARTS: dict[str, Any] = {
    "providers": {"groq": {"type": "groq", "api_key": "env:K"}},
    "routes": {"r": {"deployments": ["groq"], "weights": "llama-3.1-8b"}},
    "keys": [{"name": "a", "key": "env:A"}],
    "store": {"keep_days": 7},
    "telemetry": {"otlp": "https://otel.example.com"},
    "server": {"grace_s": 600},
}


def pod_annotations(tmp_path: Path, config: dict[str, Any]) -> Any:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump({"config": config, "secrets": {"env": ["clouds"]}}))
    (found,) = (o for o in objects(template("--values", file).stdout) if o["kind"] == "Deployment")
    return found["spec"]["template"]["metadata"].get("annotations")


CHANGED: dict[str, Any] = {
    "routes": {"s": {"deployments": ["groq"]}},
    "keys": [{"name": "b", "key": "env:A"}],
    "store": {"keep_days": 8},
    "telemetry": {"otlp": "https://other.example.com"},
    "server": {"max_body_bytes": 1000},
}


@pytest.mark.parametrize("part", CHANGED)
def test_pods_roll_for_what_a_process_takes_up_at_its_start_alone(part: str, tmp_path: Path):
    assert set(NEEDS_RESTART) < set(CHANGED)
    before, after = pod_annotations(tmp_path, PARTS), pod_annotations(tmp_path, {**PARTS, part: CHANGED[part]})
    assert (before != after) is (part in NEEDS_RESTART)


def test_every_image_is_had_from_the_one_registry():
    done = template(
        "--values",
        ROOT / "helm" / "values" / "air-gapped.yaml",
        "--set",
        "redis.enabled=true",
        "--set",
        "config.store.redis=env:REDIS_URL",
        "--skip-schema-validation",
    )
    images = set(re.findall(r"image: (\S+)", done.stdout))
    assert len(images) == 3
    assert all(image.startswith("registry.internal:5000/") for image in images)
    pods = [
        o["spec"].get("template", o)["spec"]
        for o in objects(done.stdout)
        if o["kind"] in ("Deployment", "StatefulSet", "Pod")
    ]
    assert pods
    assert all(pod["imagePullSecrets"] == [{"name": "registry-internal"}] for pod in pods)
