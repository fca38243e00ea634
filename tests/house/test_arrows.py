"""Imports point down, and nowhere in a circle; plugins know little, and nobody knows them by name."""

from collections.abc import Iterable

import pytest

from tests.house.sources import imports, modules, ours

LAYERS = """
cli
commands.bookkeeping commands.remote_keys
commands.check config.environment commands.remote config.schema commands.screen workers
serve
reload
app
succession
front.applications
endpoints.admin endpoints.inference endpoints.keys endpoints.models endpoints.operations
endpoints.accounting
endpoints.guard endpoints.http explain parts vitals.shedding
fleet telemetry.otlp front.listener
telemetry.otlp_wire settle front.protocol
telemetry.traces
accounts dispatch config.loading
auth decisions limits.gossip lane lease limits.limiter relay limits.sharing
keys.issued limits.purses limits.room limits.rules tenants
keys.keystore config.refusals
ledger.gauges commands.spend
ledger.book
ledger.writer
ledger.insert ledger.journal ledger.migrations ledger.recall ledger.reports ledger.retention
ledger.database ledger.rows ledger.underway
limits.shared_book
answer config.document limits.eviction live metrics limits.outage router limits.shares limits.wires
config.plugins config.yaml_file
front.cycle limits.store vitals.pulse
log
limits.allowance
account limits.bound catalog charges health config.homes probe tally vitals.memory
keys.keyformat ledger.place peek keys.pepper prices limits.redis_url sse transport.client worker
transport.forward
limits.book transport.connection transport.dial
limits.terms
limits.buckets transport.http1 outcome transport.pool struck transport.tunnel
types
transport.proxy
errors secret
"""
"""The core from the top down: a module may import those of the lines below its own, none of its own line."""

DEPTH = {f"gateway.{name}": depth for depth, line in enumerate(LAYERS.split("\n")) for name in line.split()}
PACKAGES = {
    f"gateway.{name}"
    for name in (
        "commands",
        "config",
        "endpoints",
        "front",
        "keys",
        "ledger",
        "limits",
        "telemetry",
        "transport",
        "vitals",
    )
}
CORE = sorted(name for name in modules() if name.startswith("gateway.") and name not in PACKAGES)

FOR_PROVIDERS = {
    *("types", "errors", "account", "secret", "transport.proxy", "transport.client", "sse", "peek", "outcome", "answer")
}
FOR_POLICIES = {"types", "errors"}


def within(names: Iterable[str], package: str) -> list[str]:
    return sorted(name for name in names if name == package or name.startswith(f"{package}."))


def test_every_module_of_the_core_has_its_line():
    assert sorted(DEPTH) == CORE


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_downwards_only(name: str):
    up = [found for found in within(ours(name), "gateway") if DEPTH[found] <= DEPTH[name]]
    assert up == []


@pytest.mark.parametrize("name", CORE)
def test_the_core_names_no_plugin(name: str):
    plugins = within(imports(name), "providers") + within(imports(name), "policies")
    assert plugins == []
    assert within(imports(name), "sandbox") == (["sandbox.run"] if name == "gateway.cli" else [])


@pytest.mark.parametrize("name", within(modules(), "policies"))
def test_policies_know_the_nouns_and_their_own_private_files(name: str):
    known = {f"gateway.{module}" for module in FOR_POLICIES}
    assert {found for found in ours(name) if not found.startswith("policies._")} <= known


@pytest.mark.parametrize("name", within(modules(), "providers"))
def test_providers_know_what_a_wire_needs(name: str):
    known = {f"gateway.{module}" for module in FOR_PROVIDERS}
    assert set(within(ours(name), "gateway")) <= known
    assert within(imports(name), "policies") == within(imports(name), "sandbox") == []


@pytest.mark.parametrize("name", within(modules(), "providers.credentials"))
def test_credentials_know_no_dialect(name: str):
    assert [found for found in within(ours(name), "providers") if not found.startswith("providers.credentials.")] == []


@pytest.mark.parametrize("name", within(modules(), "sandbox"))
def test_the_sandbox_knows_nothing_of_the_gateway(name: str):
    assert {found.partition(".")[0] for found in ours(name)} <= {"sandbox"}


def test_nobody_imports_in_a_circle():
    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " > ".join((*way[way.index(name) :], name))
        if name not in done:
            for found in ours(name):
                visit(found, (*way, name))
            done.add(name)

    done: set[str] = set()
    for name in modules():
        visit(name, ())


def test_only_its_leaf_imports_litellm():
    found = [name for name in modules() if within(imports(name), "litellm")]
    assert found == ["providers.litellm"]
