"""What becomes of each parameter at each cloud, from the adapters' own functions; writes docs/parameters.md.

`python -m tests.contract.table` (or `make table`) writes the page anew."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import Gateway
from gateway.config import loading
from gateway.errors import UpstreamError
from gateway.log import Log
from gateway.peek import peek, rewrite
from gateway.types import Call, Candidate, Deployment, Endpoint, Missing, Tenant
from policies.capability import Capability
from providers import _bedrock_request, _emulation, _oci_request
from providers._passed import prepared
from providers.openai import OpenAI
from sandbox.cloud import clouds
from tests.contract.rows import MODES, ROWS, Row, clouds_of, config, request, without
from tests.harness import CATALOG

PAGE = Path(__file__).parents[2] / "docs" / "parameters.md"
BEGIN, END = "<!-- {} -->\n", "<!-- /{} -->"
Word = str


def call(body: dict[str, Any], endpoint: Endpoint) -> Call:
    raw = msgspec.json.encode(body)
    found = peek(raw, endpoint)
    return Call(
        id="req_1",
        tenant=Tenant("t"),
        route="r",
        model=found.model,
        endpoint=endpoint,
        stream=found.stream,
        features=found.features,
        stop_count=found.stop_count,
        choices=found.choices,
        max_output_tokens=found.max_output_tokens,
        prompt_tokens=found.prompt_tokens,
        include_usage=found.include_usage,
        body=raw,
        fields=found.fields,
    )


def carried(account: Any, asked: Call, deployment: Deployment) -> tuple[Mapping[str, str], bytes]:
    """What an adapter says of a call, and the request that it writes. Raises UpstreamError."""
    if isinstance(account, OpenAI):
        made = prepared(asked, deployment, account.takes(deployment.model))
        body = rewrite(made.call.body, made.call.fields, account.changes(made.call, deployment))
        return made.plan.degraded, body
    if asked.endpoint != "chat/completions":
        raise _emulation.refusal("only chat")
    translating = _bedrock_request if account.__class__.__name__ == "Bedrock" else _oci_request
    plan = _emulation.plan(asked, deployment, translating.OFFERS)
    fields = {name: raw for name, raw in _emulation.fields_of(asked).items() if name not in plan.degraded}
    if translating is _bedrock_request:
        degraded: dict[str, Any] = {}
        body = _bedrock_request.encoded(_bedrock_request.converse(fields, deployment, degraded))
        return {**plan.degraded, **degraded}, body + (b" streamed" if asked.stream else b"")
    translated = _oci_request.translate(fields, asked, deployment, _oci_request.Place("c"))
    return {**plan.degraded, **translated.degraded}, translated.body


def word(account: Any, deployment: Deployment, row: Row, endpoint: Endpoint) -> Word:
    """What becomes of a parameter: passed, mapped, emulated, clamped, dropped or refused."""
    asked = call(request(row, endpoint), endpoint)
    policy = Capability(missing=deployment.missing)
    if policy.apply(asked, [Candidate(deployment=deployment)], 0.0).removed:
        return "refused"
    try:
        degraded, body = carried(account, asked, deployment)
    except UpstreamError:
        return "refused"
    if row.name in degraded:
        return degraded[row.name]
    bare = carried(account, call(without(row, endpoint), endpoint), deployment)[1]
    return reached(row, body, bare)


def reached(row: Row, body: bytes, bare: bytes) -> Word:
    """Whether a cloud gets a parameter as it came or in its own words; `bare` is the same request without it."""
    if row.name in ("model", "stream_options"):
        return "mapped"  # to the cloud's own id; usage is asked for in every stream, and shown to who asked
    assert body != bare, f"{row.title} is forgotten"
    try:
        sent = json.loads(body)
    except ValueError:
        return "mapped"
    return "passed" if sent.get(row.name) == row.value else "mapped"


def deployments(missing: Missing, endpoint: Endpoint) -> Iterator[tuple[str, Any, Deployment]]:
    """Each cloud's account and deployment, as a gateway has them for this mode."""
    found = clouds()
    accounts = {name: found[name].account("http://127.0.0.1:9") for name in clouds_of(endpoint)}
    gateway = Gateway(
        loading.build(config(accounts, missing, endpoint)), log=Log(io.BytesIO(), human=False), catalog=CATALOG
    )
    for name in accounts:
        (lane,) = gateway.fleet.routes[f"on-{name}"].lanes.values()
        yield name, gateway.fleet.config.accounts[name], lane.deployment


def words(endpoint: Endpoint) -> dict[tuple[str, str], list[Word]]:
    """The words of each cloud and row, by its title, for each mode."""
    found: dict[tuple[str, str], list[Word]] = {}
    for missing in MODES:
        for name, account, deployment in deployments(missing, endpoint):
            for row in ROWS[endpoint]:
                found.setdefault((name, row.title), []).append(word(account, deployment, row, endpoint))
    return found


def table(endpoint: Endpoint) -> str:
    names = clouds_of(endpoint)
    found = words(endpoint)
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in ROWS[endpoint]:
        cells = [cell(found[name, row.title]) for name in names]
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(said: list[Word]) -> str:
    """One word where the modes agree, else those of strict, emulate and lossy."""
    return said[0] if len(set(said)) == 1 else " / ".join(said)


def written(page: str) -> str:
    """The page with its tables anew."""
    for endpoint in ROWS:
        head, begin, rest = page.partition(BEGIN.format(endpoint))
        _, end, tail = rest.partition(END.format(endpoint))
        page = head + begin + table(endpoint) + end + tail
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
