"""Every broken config is refused with the path of the mistake, the reason, and the nearest known word.

A row is a config that is broken in one place, and the exact words an operator gets to read."""

import io
import textwrap
from pathlib import Path

import pytest

from gateway.app import Gateway
from gateway.config import loading, plugins
from gateway.errors import ConfigError
from gateway.limits import redis_url
from gateway.log import Log

ACCOUNT = "providers: {a: {type: openai, url: http://127.0.0.1:1/v1}}\n"
ROUTE = "routes: {r: {deployments: [{account: a, model: m}]}}\n"


def refusal(text: str) -> str:
    """The words with which a config is refused."""
    with pytest.raises(ConfigError) as caught:
        Gateway(loading.parse(text), log=Log(io.BytesIO(), human=False))
    return str(caught.value)


def accepted(text: str) -> Gateway:
    return Gateway(loading.parse(text), log=Log(io.BytesIO(), human=False))


def section(text: str) -> str:
    return f"{ACCOUNT}{ROUTE}{text}\n"


def key(fields: str) -> str:
    return section(f"keys: [{{name: a, key: k, {fields}}}]")


def account(fields: str, type_: str = "openai") -> str:
    return f"providers: {{a: {{type: {type_}, {fields}}}}}\n{ROUTE}"


def route(fields: str) -> str:
    return f"{ACCOUNT}routes: {{r: {{deployments: [{{account: a, model: m}}], {fields}}}}}\n"


def deployments(items: str) -> str:
    return f"{ACCOUNT}routes: {{r: {{deployments: {items}}}}}\n"


def deployment(fields: str) -> str:
    return deployments(f"[{{account: a, model: m, {fields}}}]")


def policy(item: str) -> str:
    return route(f"policies: [{item}]")


ONE = "routes.r.deployments[0]"
POLICY = "routes.r.policies[0]"
NAME_RULE = "1 to 128 letters, digits and . _ : / @ + ~ -"
REDIS_FORMS = redis_url.FORMS
NOT_YET = "is not offered by this version"
MOMENT = "must be a date such as 2027-01-31 or a time such as 2027-01-31T18:00:00Z"
BAD_URL = "providers.a: 'url' must be http:// or https:// with a host, without a query or credentials"
TYPES = ", ".join(plugins.names("providers"))

YAML = [
    ("a: [", "config:1:5: expected the node content, but found '<stream end>'"),
    ("providers:\n  a: b: c", "config:2:7: mapping values are not allowed here"),
    ("routes: {}\nroutes: {}", "config:2:1: the name 'routes' stands twice"),
    ("providers: {a: {type: groq, api_key: k, api_key: l}}", "config:1:41: the name 'api_key' stands twice"),
    ("\troutes: 1", "config:1:1: found character '\\t' that cannot start any token"),
    ("a: *x", "config:1:4: found undefined alias 'x'"),
    (
        "a: !!python/object/apply:os.system [id]",
        "config:1:4: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    ("---\na: 1\n---\nb: 2", "config:3:1: but found another document"),
    ("1: 2", "config:1:1: the name 1 is not text: put it in quotes"),
    ("routes: {no: {}}", "config:1:10: the name no is not text: put it in quotes"),
    ("? [1, 2]\n: 3", "config:1:3: a name is not text: put it in quotes"),
    ("a: \x00", "config: holds a character that YAML does not allow, at 3"),
    ("[" * 500, "config: is nested too deeply"),
    ("a: &x [*x]", "config: expands to more than 100,000 values through aliases"),
    (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
        "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]",
        "config: expands to more than 100,000 values through aliases",
    ),
]

SECTIONS = [
    ("", "providers: is empty: name at least one account, such as `groq: {type: groq, api_key: env:GROQ_API_KEY}`"),
    (ACCOUNT, "routes: is empty: name at least one route, such as `llama-3.1-8b: {deployments: [groq]}`"),
    ("[]", "the config: must be a mapping, not a list"),
    ("hello", "the config: must be a mapping, not text"),
    (section("servers: {}"), "servers: unknown word 'servers'; did you mean 'server'?"),
    (
        section("zebra: {}"),
        "zebra: unknown word 'zebra'; known: server, admin, attempts, baseline, store, telemetry, keys, teams, "
        "providers, routes",
    ),
    (section("server: 3"), "server: must be a mapping, not 3"),
    (
        section("server: {max_body_byte: 1}"),
        "server.max_body_byte: unknown word 'max_body_byte'; did you mean 'max_body_bytes'?",
    ),
    (section("server: {max_body_bytes: 0}"), "server.max_body_bytes: must be at least 1, not 0"),
    (section("server: {max_body_bytes: 1.5}"), "server.max_body_bytes: must be a whole number, not 1.5"),
    (section("server: {grace_s: soon}"), "server.grace_s: must be a number, not text"),
    (section("server: {grace_s: .inf}"), "server.grace_s: must be at most 86400, not inf"),
    (section("server: {allow_anonymous: 1}"), "server.allow_anonymous: must be true or false, not 1"),
    (section("attempts: {max: 0}"), "attempts.max: must be at least 1, not 0"),
    (section("attempts: {max: true}"), "attempts.max: must be a whole number, not true"),
    (section("attempts: {retry_budget: 1.5}"), "attempts.retry_budget: must be at most 1, not 1.5"),
    (section("baseline: {}"), "baseline: 'model' is missing"),
    (section("baseline: gpt-4o"), "baseline: must be a mapping, not text"),
    (section("baseline: {model: gpt-4oo}"), "baseline.model: unknown priced model 'gpt-4oo'; did you mean 'gpt-4o'?"),
    (section("store: {redis: x}"), f"store: 'redis' must be {REDIS_FORMS}"),
    (section("store: {redis: 'http://a/0'}"), f"store: 'redis' must be {REDIS_FORMS}"),
    (section("store: {redis: 'redis://:secret@h:port/0'}"), f"store: 'redis' must be {REDIS_FORMS}"),
    (section("store: {redis: 'redis+sentinel://a:1'}"), f"store: 'redis' must be {REDIS_FORMS}"),
    (
        section("store: {redis: 'rediss://h/0?timeout=3'}"),
        "store: 'redis' knows no 'timeout'; known: ssl_ca_certs, ssl_certfile, ssl_keyfile",
    ),
    (
        section("store: {redis: 'redis+cluster://h/3'}"),
        "store: 'redis' may not number a database: a cluster has one",
    ),
    (section("store: {redis_timeout_s: 0}"), "store.redis_timeout_s: must be above 0, not 0"),
    (
        section("store: {peppers: [short]}"),
        "store: 'peppers' must have 32 letters or more each, best random ones",
    ),
    (
        section(f"store: {{peppers: [{'a' * 32}, {'b' * 32}, {'c' * 32}]}}"),
        "store.peppers: must have a length of at most 2",
    ),
    (section("store: {keep_days: 0}"), "store.keep_days: must be at least 1, not 0"),
    (
        section("store: {ledger: 'mysql://u:p@h/d'}"),
        "store: 'ledger' must be sqlite:///file.db (relative), sqlite:////folder/file.db, sqlite:///:memory:, "
        "postgresql://user:password@host/name or none",
    ),
    (section("admin: {token: t}"), "admin.token: unknown word 'token'; did you mean 'tokens'?"),
    (section("admin: {tokens: [{name: a}]}"), "admin.tokens[0]: 'token' is missing"),
    (
        section("admin: {tokens: [{name: a, token: t, scope: admin}]}"),
        "admin.tokens[0].scope: unknown value 'admin'; known: read, write",
    ),
    (
        section("admin: {tokens: [{name: a, token: t}, {name: a, token: u}]}"),
        "admin: 'tokens' names 'a' twice",
    ),
]

KEYS = [
    (section("keys: {team: k}"), "keys: must be a list, not a mapping"),
    (section("keys: [team]"), "keys[0]: must be a mapping, not text"),
    (section("keys: [{name: a}]"), "keys[0]: 'key' is missing"),
    (section("keys: [{name: a, key: ''}]"), "keys[0].key: is empty"),
    (section("keys: [{name: a, key: 123}]"), "keys[0].key: must be text, `env:NAME` or `file:/path`"),
    (section("keys: [{name: a, key: 'k€'}]"), "keys[0].key: holds a character that no header can carry"),
    (
        section("keys: [{name: a, key: 'env:NO_SUCH_VARIABLE'}]"),
        "keys[0].key: the environment variable NO_SUCH_VARIABLE is not set",
    ),
    (
        section("keys: [{name: a, key: 'file:/no/such'}]"),
        "keys[0].key: the file /no/such cannot be read: No such file or directory",
    ),
    (section("keys: [{name: a, key: 'file:/dev/null'}]"), "keys[0].key: file:/dev/null is empty"),
    (section("keys: [{name: a, key: k}, {name: a, key: l}]"), "keys[1].name: 'a' stands twice"),
    (section("keys: [{name: a, key: k}, {name: b, key: k}]"), "keys[1].key: is the same key as that of 'a'"),
    (section('keys: [{name: "a\\nb", key: k}]'), f"keys[0].name: must be {NAME_RULE}"),
    (
        section("keys: [{name: a, key: k}]\nadmin: {tokens: [{name: b, token: k}]}"),
        "admin.tokens[0].token: is also a client's key: admin tokens cannot infer",
    ),
    (section("keys: [{name: a, key: k, route: [x]}]"), "keys[0].route: unknown word 'route'; did you mean 'routes'?"),
    (section("keys: [{name: a, key: k, routes: x}]"), "keys[0].routes: must be a list, not text"),
    (
        section("keys: [{name: a, key: k, labels: {tier: 1}}]"),
        "keys[0].labels: every value in it must be text, not a whole number",
    ),
    (
        section("keys: [{name: a, key: k, labels: {'my tier': x}}]"),
        "keys[0].labels: every name in it must be 1 to 64 letters, digits and _ . -",
    ),
    (key("team: b"), "keys[0].team: unknown team 'b'; none is known here"),
    (key("team: tem") + "teams: [{name: team}]", "keys[0].team: unknown team 'tem'; did you mean 'team'?"),
    (key("expires: soon"), f"keys[0]: 'expires' {MOMENT}"),
    (key("expires: 2027-13-01"), f"keys[0]: 'expires' {MOMENT}"),
    (key("expires: '2027-01-31T10:00:00'"), f"keys[0]: 'expires' {MOMENT}"),
    (key("expires: 9999-12-31"), f"keys[0]: 'expires' {MOMENT}"),
    (key("expires: 1"), "keys[0].expires: must be text, not 1: put it in quotes"),
    (
        key("team: t, labels: {region: eu}") + "teams: [{name: t, labels: {region: us}}]",
        "keys[0].labels: the team 't' fixes 'region' to 'us'",
    ),
    (section("teams: {a: {}}"), "teams: must be a list, not a mapping"),
    (section("teams: [{name: a}, {name: a}]"), "teams[1].name: 'a' stands twice"),
    (
        section("teams: [{name: a, key: k}]"),
        "teams[0].key: unknown word 'key'; known: name, routes, labels, limits, budget",
    ),
    (key("limits: {rpm: 0}"), "keys[0].limits.rpm: must be at least 1, not 0"),
    (key("limits: {tpm: -5}"), "keys[0].limits.tpm: must be at least 1, not -5"),
    (key("limits: {concurrent: 1.5}"), "keys[0].limits.concurrent: must be a whole number, not 1.5"),
    (key("limits: {rpm: 1000000001}"), "keys[0].limits.rpm: must be at most 1000000000, not 1000000001"),
    (key("limits: {rps: 3}"), "keys[0].limits.rps: unknown word 'rps'; did you mean 'rpm'?"),
    (key("limits: {}"), "keys[0].limits: limits nothing: say rpm, tpm or concurrent"),
    (
        key("limits: {models: {'a*': {}}}"),
        "keys[0].limits.models: every value in it limits nothing: say rpm, tpm or concurrent",
    ),
    (
        route("limits: {models: {a: {rpm: 1}}}"),
        "routes.r.limits.models: unknown word 'models'; known: rpm, tpm, concurrent",
    ),
    (key("budget: {usd: 3}"), "keys[0].budget: 'per' is missing"),
    (key("budget: {usd: 0, per: day}"), "keys[0].budget: 'usd' must be above 0 and at most 5,000,000, not 0"),
    (key("budget: {usd: -1, per: day}"), "keys[0].budget: 'usd': -1 is not an amount of US dollars"),
    (key("budget: {usd: .nan, per: day}"), "keys[0].budget: 'usd': NaN is not an amount of US dollars"),
    (
        key("budget: {usd: 5000001, per: day}"),
        "keys[0].budget: 'usd' must be above 0 and at most 5,000,000, not 5000001",
    ),
    (key("budget: {usd: '0.0000000001', per: day}"), "keys[0].budget: 'usd': 1E-10 has digits below one nano-dollar"),
    (key("budget: {usd: 1, per: week}"), "keys[0].budget.per: unknown value 'week'; known: day, month, total"),
    (key("budget: {usd: 1, per: day, hard: 1}"), "keys[0].budget.hard: must be true or false, not 1"),
]

ACCOUNTS = [
    (f"providers: []\n{ROUTE}", "providers: must be a mapping, not a list"),
    (f"providers: {{a: groq}}\n{ROUTE}", "providers.a: must be a mapping, not text"),
    (f"providers: {{a: {{api_key: k}}}}\n{ROUTE}", f"providers.a: 'type' is missing; known: {TYPES}"),
    (f"providers: {{a: {{type: 3}}}}\n{ROUTE}", "providers.a.type: must be text, not 3"),
    (account("api_key: k", "grok"), "providers.a.type: unknown type 'grok'; did you mean 'groq'?"),
    (f"providers: {{'a b': {{type: nim}}}}\n{ROUTE}", f"providers: the name 'a b' must be {NAME_RULE}"),
    (account("url: 3"), "providers.a.url: must be text, not 3: put it in quotes"),
    (account("url: ftp://host"), BAD_URL),
    (account("url: 'http://user:secret@host/v1'"), BAD_URL),
    (account("url: 'http://host/v1?key=secret'"), BAD_URL),
    (account("url: 'http://host:99999/v1'"), BAD_URL),
    (account('url: "http://host/v1\\r\\nx-evil: 1"'), BAD_URL),
    (account("api_key: [k]"), "providers.a.api_key: must be text, `env:NAME` or `file:/path`"),
    (account('api_key: "k\\r\\nx-evil: 1"'), "providers.a.api_key: holds a character that no header can carry"),
    (
        account("max_connection: 3"),
        "providers.a.max_connection: unknown word 'max_connection'; did you mean 'max_connections'?",
    ),
    (account("region: no"), "providers.a.region: must be text, not false: put it in quotes"),
    (account("stream_end: never"), "providers.a.stream_end: unknown value 'never'; known: marker, close"),
    (account("timeouts: 3"), "providers.a.timeouts: must be a mapping, not 3"),
    (
        account("timeouts: {connect: 1}"),
        "providers.a.timeouts.connect: unknown word 'connect'; did you mean 'connect_s'?",
    ),
    (account("timeouts: {connect_s: 0}"), "providers.a.timeouts.connect_s: must be above 0, not 0"),
    (account("timeouts: {idle_s: -1}"), "providers.a.timeouts.idle_s: must be above 0, not -1"),
    (account("timeouts: {total_s: 100000}"), "providers.a.timeouts.total_s: must be at most 86400, not 100000"),
    (account("timeouts: {total_s: .nan}"), "providers.a.timeouts.total_s: must be above 0, not nan"),
    (account("ca_file: /no/such"), "providers.a.ca_file: /no/such cannot be read: No such file or directory"),
    (account("ca_file: /dev/null"), "providers.a.ca_file: /dev/null holds no certificates in PEM form"),
    (
        account("proxy: 'socks5://me:pw@x:1'"),
        "providers.a: 'proxy' must be http://host:port or https://host:port, perhaps with user:password@ "
        "(percent-encoded) before the host; or none",
    ),
    (
        account("proxy: 'http://x:1'", "litellm"),
        "providers.a: 'proxy' is not for litellm, which takes HTTPS_PROXY and NO_PROXY from the environment",
    ),
    (account("on_disconnect: never"), "providers.a.on_disconnect: unknown value 'never'; known: cancel, drain"),
    (account("gpus: 0", "vllm"), "providers.a.gpus: must be at least 1, not 0"),
    (
        account("gpu_usd_per_hour: -1", "vllm"),
        "providers.a.gpu_usd_per_hour: -1 is not an amount of US dollars",
    ),
    (account("gpu_usd_per_hour: dear", "vllm"), "providers.a.gpu_usd_per_hour: must be a number, not text"),
    (
        account("api_key: k", "azure"),
        "providers.a: 'url' is missing: the endpoint, such as https://acme.services.ai.azure.com",
    ),
    (account("url: 'https://x.test'", "azure"), "providers.a: needs one of 'api_key', 'token' and 'entra'"),
    (
        account("url: 'https://x.test', api_key: k, form: model", "azure"),
        "providers.a.form: unknown value 'model'; did you mean 'models'?",
    ),
    (
        account("token: t", "vertex"),
        "providers.a: 'project' is missing: say it in the account, the id of the Google Cloud project",
    ),
]

DEPLOYMENTS = [
    (deployments("[]"), "routes.r.deployments: is empty: name at least one account"),
    (deployments("a"), "routes.r.deployments: must be a list, not text"),
    (deployments("[3]"), f"{ONE}: must be an account's name or a mapping, not 3"),
    (deployments("[aa]"), f"{ONE}.account: unknown account 'aa'; did you mean 'a'?"),
    (
        deployments("[a]"),
        f"{ONE}: 'model' is missing, and neither the route's name nor its 'weights' is in the catalogue",
    ),
    (
        f"{ACCOUNT}routes: {{llama-3.1-8b: {{deployments: [a]}}}}",
        "routes.llama-3.1-8b.deployments[0]: 'model' is missing, "
        "and the catalogue has no row for llama-3.1-8b at openai",
    ),
    (deployments("[{model: m}]"), f"{ONE}: 'account' is missing"),
    (
        deployments("[{account: a, model: m}, {account: a, model: n}]"),
        "routes.r.deployments[1]: 'a' stands twice: give one of them a 'name'",
    ),
    (
        deployments("[{account: a, model: m, enabled: false}]"),
        "routes.r.deployments: all of them have `enabled: false`: enable one, or leave out the route",
    ),
    (deployment("enabled: 'no'"), f"{ONE}.enabled: must be true or false, not text"),
    (deployment("acount: a"), f"{ONE}.acount: unknown word 'acount'; did you mean 'account'?"),
    (deployment("name: 'a b'"), f"{ONE}.name: must be {NAME_RULE}"),
    (deployment('name: "a\\r\\nx-evil: 1"'), f"{ONE}.name: must be {NAME_RULE}"),
    (deployment("price: 3"), f"{ONE}.price: must be a mapping, not 3"),
    (deployment("price: {in: 1}"), f"{ONE}.price: 'out' is missing"),
    (deployment("price: {in: -1, out: 2}"), f"{ONE}.price: 'in': -1 is not an amount of US dollars"),
    (
        deployment("price: {in: 1, out: 0.1234567891}"),
        f"{ONE}.price: 'out': 0.1234567891 has digits below one nano-dollar",
    ),
    (deployment("price: {in: 1, out: .nan}"), f"{ONE}.price: 'out': NaN is not an amount of US dollars"),
    (deployment("price: {in: 2000000, out: 1}"), f"{ONE}.price: 'in': 2000000 is more than 1,000,000 US dollars"),
    (deployment("price: {in: cheap, out: 1}"), f"{ONE}.price.in: must be a number, not text"),
    (
        deployment("price: {in: 1, out: 1, cached: 1}"),
        f"{ONE}.price.cached: unknown word 'cached'; did you mean 'cached_in'?",
    ),
    (
        deployment("price: {in: 1, out: 1, cached_in: -1}"),
        f"{ONE}.price: 'cached_in': -1 is not an amount of US dollars",
    ),
    (deployment("price: {in: 1, out: 1, long: {in: 1, out: 1}}"), f"{ONE}.price.long: 'above_tokens' is missing"),
    (deployment("billing: bulk"), f"{ONE}.billing: unknown value 'bulk'; known: on_demand, batch"),
    (deployment("features: chat"), f"{ONE}.features: must be a list, not text"),
    (deployment("features: [chat, tool]"), f"{ONE}.features[1]: unknown feature 'tool'; did you mean 'tools'?"),
    (deployment("features: [+strem]"), f"{ONE}.features[0]: unknown feature 'strem'; did you mean 'stream'?"),
    (
        deployment("features: [+tools, chat]"),
        f"{ONE}.features: give either every word a sign, to change what the catalogue says, or none of them",
    ),
    (deployment("context_tokens: many"), f"{ONE}.context_tokens: must be a whole number, not text"),
    (deployment("max_output_tokens: 0"), f"{ONE}.max_output_tokens: must be at least 1, not 0"),
    (deployment("weight: 0"), f"{ONE}.weight: must be above 0, not 0"),
    (deployment("tier: -1"), f"{ONE}.tier: must be at least 0, not -1"),
]

ROUTES = [
    (f"{ACCOUNT}routes: {{r: [a]}}", "routes.r: must be a mapping, not a list"),
    (f"{ACCOUNT}routes: {{r: {{}}}}", "routes.r: 'deployments' is missing"),
    (f"{ACCOUNT}routes: {{'': {{deployments: [a]}}}}", f"routes: the name '' must be {NAME_RULE}"),
    (f"{ACCOUNT}routes: {{'a*': {{deployments: [a]}}}}", f"routes: the name 'a*' must be {NAME_RULE}"),
    (f'{ACCOUNT}routes: {{"a\\nb": {{deployments: [a]}}}}', f"routes: the name 'a\\nb' must be {NAME_RULE}"),
    (f'{ACCOUNT}routes: {{"a\\u202eb": {{deployments: [a]}}}}', f"routes: the name 'a\\u202eb' must be {NAME_RULE}"),
    (route("aliases: x"), "routes.r.aliases: must be a list, not text"),
    (route("aliases: [405]"), "routes.r.aliases[0]: must be text, not 405: put it in quotes"),
    (route("aliases: [x, x]"), "routes.r.aliases[1]: 'x' names r already"),
    (route("aliases: ['a b']"), f"routes.r.aliases[0]: must be {NAME_RULE}"),
    (
        f"{ACCOUNT}routes: {{r: {{deployments: [{{account: a, model: m}}], aliases: [s]}}, "
        "s: {deployments: [{account: a, model: m}]}}",
        "routes.r.aliases[0]: 's' names s already",
    ),
    (route("weights: llama-3.1-8"), "routes.r.weights: unknown weights 'llama-3.1-8'; did you mean 'llama-3.1-8b'?"),
    (route("hedge: {after: ttft_p95}"), f"routes.r.hedge: 'hedge' (hedged calls) {NOT_YET}"),
    (
        route("on_break: continue"),
        f"routes.r.on_break: 'on_break' (going on at another deployment after a break) {NOT_YET}",
    ),
    (route("policy: []"), "routes.r.policy: unknown word 'policy'; did you mean 'policies'?"),
]

POLICIES = [
    (route("policies: breaker"), "routes.r.policies: must be a list, not text"),
    (policy("braker"), f"{POLICY}: unknown policy 'braker'; did you mean 'breaker'?"),
    (policy("least-busy"), f"{POLICY}: unknown policy 'least-busy'; did you mean 'least_busy'?"),
    (policy("_cost"), f"{POLICY}: unknown policy '_cost'; did you mean 'lowest_cost'?"),
    (policy("3"), f"{POLICY}: must be a policy's name, or a name and its options, not 3"),
    (policy("{breaker: {}, tier: {}}"), f"{POLICY}: must be one policy: a name, or a name and its options"),
    (policy("breaker: 3"), f"{POLICY}.breaker: must be a mapping, not 3"),
    (policy("breaker: {open: 3}"), f"{POLICY}.breaker.open: unknown word 'open'; did you mean 'open_s'?"),
    (policy("weighted: {weights: 1}"), f"{POLICY}.weighted.weights: unknown word 'weights'; none is known here"),
    (policy("breaker: {consecutive: many}"), f"{POLICY}.breaker.consecutive: must be a whole number, not text"),
    (policy("breaker: {consecutive: 0}"), f"{POLICY}.breaker: consecutive must be at least 1 failure, not 0"),
    (
        policy("headroom: {keep: 1.5}"),
        f"{POLICY}.headroom: keep must be a share from 0 to below 1, such as 0.05, not 1.5",
    ),
    (
        policy("lowest_latency: {percentile: p99}"),
        f"{POLICY}.lowest_latency.percentile: unknown value 'p99'; did you mean 'p95'?",
    ),
    (
        policy("objective: {minimize: price}"),
        f"{POLICY}.objective.minimize: unknown value 'price'; known: cost, latency",
    ),
    (
        policy("objective: {subject_to: {ttft_p95: 1}}"),
        f"{POLICY}.objective.subject_to.ttft_p95: unknown word 'ttft_p95'; did you mean 'ttft_p95_s'?",
    ),
    (policy("residency: {map: [eu]}"), f"{POLICY}.residency.map: must be a mapping, not a list"),
    (policy("sensitivity"), f"{POLICY}.sensitivity: needs at least one level, such as restricted: [own]"),
    (
        policy("sensitivity: {restricted: [3]}"),
        f"{POLICY}.sensitivity: restricted must be a list of accounts and trust classes, such as [own, trust:private]",
    ),
    (policy("sensitivity: {restricted: [own]}"), f"{POLICY}.sensitivity: unknown account 'own'; known: a"),
    (policy("budget: {usd: 3}"), f"{POLICY}.budget: 'per' is missing"),
    (
        policy("budget: {usd: 3, per: day, account: b}"),
        f"{POLICY}.budget: unknown account 'b'; known: a",
    ),
    (
        policy("budget: {usd: 3, per: day, deployment: aa}"),
        f"{POLICY}.budget: unknown deployment 'aa'; did you mean 'a'?",
    ),
]


RIGHT = [
    section("server:"),  # a section of which everything is commented out
    section("keys:\nadmin:\nattempts:\nbaseline:"),
    route("policies: []"),
    policy("breaker:"),
    policy("{sensitivity: {restricted: [a, 'trust:private'], public: ['*']}}"),
    policy("{budget: {usd: 3, per: day, deployment: a}}"),
    deployment("price: {in: '0.30', out: 1}, features: [], tier: 0"),
    deployments("[{account: a, model: m}, {account: a, model: n, name: b, enabled: false}]"),
    account("url: 'http://[::1]:3/v1', timeouts: {total_s: 86400}"),
    f"{ACCOUNT}routes: {{meta-llama/Llama-3.1-8B-Instruct: {{deployments: [{{account: a, model: m}}]}}}}",
    "x: &x {type: nim}\n".replace("x: &x", "providers: {a: &x")
    + "}\nroutes: {r: {deployments: [a], weights: llama-3.1-8b}}",
]


@pytest.mark.parametrize(
    ("text", "words"),
    [*YAML, *SECTIONS, *KEYS, *ACCOUNTS, *DEPLOYMENTS, *ROUTES, *POLICIES],
    ids=lambda part: part[:60],
)
def test_a_broken_config_is_refused_with_path_and_reason(text, words):
    assert refusal(text) == words


@pytest.mark.parametrize("text", RIGHT, ids=lambda part: part[:60])
def test_what_is_right_is_taken(text):
    accepted(text).fleet.route(next(iter(accepted(text).fleet.routes)))


def test_a_secret_at_the_wrong_place_is_not_repeated():
    words = refusal(account("timeouts: sk-canary-1, region: eu"))
    assert "sk-canary" not in words
    assert "sk-canary" not in refusal(account("max_connections: sk-canary-2"))
    assert "sk-canary" not in refusal(section("keys: sk-canary-3"))
    assert "canary" not in refusal(account("url: 'http://user:canary@host/v1'"))


def test_a_file_says_its_name_line_and_column(tmp_path: Path):
    file = tmp_path / "broken.yaml"
    file.write_text("providers:\n  a: {type: groq\nroutes: {}\n")
    with pytest.raises(ConfigError) as caught:
        loading.read(file)
    assert str(caught.value) == f"{file}:3:7: expected ',' or '}}', but got ':'"


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read: No such file or directory"), (b"a: \xff", "is not UTF-8 at byte 3")],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, content: bytes | None, words: str):
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        loading.read(file)
    assert str(caught.value) == f"{file}: {words}"


def test_merge_keys_and_anchors_share_what_is_common():
    config = loading.parse(
        textwrap.dedent("""
        providers:
          one: &own {type: vllm, url: http://127.0.0.1:1/v1, region: eu}
          two: {<<: *own, url: http://127.0.0.1:2/v1}
        routes: {r: {deployments: [{account: one, model: m}, {account: two, model: m}]}}
        """)
    )
    assert config.accounts["two"].region == "eu"
    assert config.accounts["two"].url == "http://127.0.0.1:2/v1"


def test_what_looks_like_a_date_is_text():
    config = loading.parse(account("url: http://127.0.0.1:1/v1, region: 2026-13-40"))
    assert config.accounts["a"].region == "2026-13-40"
