"""A decision that is not carried out, and any decision as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gateway.errors import ClientError
from gateway.fleet import Fleet
from gateway.ledger.recall import considered
from gateway.ledger.rows import Finished, Lines
from gateway.prices import usd
from gateway.router import decide
from gateway.types import FEATURES, Call, Tenant


class Asked(BaseModel):
    """A call that is not made: what `arriero explain --route` sends."""

    model_config = ConfigDict(extra="forbid")

    route: str
    prompt_tokens: int = Field(ge=0, le=1_000_000_000)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000_000)
    stream: bool = False
    features: list[str] = []
    labels: dict[str, str] = {}
    session: str | None = None


def dry_run(asked: Asked, fleet: Fleet) -> dict[str, Any]:
    """The decision that such a call would get now. Raises ClientError for an unknown route or feature."""
    route = fleet.route(asked.route)
    unknown = [feature for feature in asked.features if feature not in FEATURES]
    if unknown:
        raise ClientError(400, "invalid_request", f"Unknown feature '{unknown[0]}'; known: {', '.join(FEATURES)}.")
    now = fleet.clock()
    tenant = Tenant("dry-run")
    call = Call(
        id=f"dry-run at {now}",
        tenant=tenant,
        route=route.name,
        model=asked.route,
        endpoint="chat/completions",
        stream=asked.stream,
        features=frozenset(asked.features) | {"chat"} | ({"stream"} if asked.stream else set()),
        prompt_tokens=asked.prompt_tokens,
        max_output_tokens=asked.max_tokens,
        expected_output_tokens=fleet.health.expected_output_tokens(route.name, tenant.name, asked.max_tokens),
        labels=asked.labels,
        session=asked.session,
    )
    decision = decide(call, route.candidates(now), route.policies, now)
    found = considered(Lines().line(Finished(decision, None, 0, "", 0.0)))
    if baseline := fleet.baseline:
        cost = baseline.price.cost(call.prompt_tokens, call.expected_output_tokens)
        found["baseline"] = {"model": baseline.model, "expected_cost_usd": usd(cost)}
    return found


def text(found: Mapping[str, Any], width: int = 100) -> str:
    """A decision for a terminal: a headline, the candidates, the attempts."""
    lines = [_headline(found), ""]
    lines += _table([_row(candidate) for candidate in found["candidates"]], COLUMNS)
    for candidate in found["candidates"]:
        if candidate["removed_by"]:
            lines.append(f"  {candidate['deployment']} was removed by {candidate['removed_by']}: {candidate['reason']}")
    lines += [f"  {note['policy']}: {note['note']}" for note in found["notes"]]
    order = " > ".join(found["order"]) or "nobody"
    lines += ["", f"policies  {' > '.join(found['policies'])}", f"order     {order}"]
    if found.get("baseline"):
        lines.append(f"baseline  {found['baseline']['model']} would cost ${found['baseline']['expected_cost_usd']}")
    for number, attempt in enumerate(found.get("attempts", ()), 1):
        lines.append(_attempt_line(number, attempt))
    return "\n".join(_printable(line) for text in lines for line in text.split("\n"))


def _printable(line: str) -> str:
    """Clouds may say what moves a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)


def _headline(found: Mapping[str, Any]) -> str:
    kind = "stream" if found["stream"] else "plain"
    tokens = f"{found['prompt_tokens']} tokens in, {found['expected_output_tokens']} out expected"
    head = f"{found['route']}  {found['endpoint']} {kind}, {tokens}, key {found['key']}"
    if found["labels"]:
        head += "  " + ",".join(f"{k}={v}" for k, v in found["labels"].items())
    if "id" in found:
        code = f" {found['code']}" if found["code"] else ""
        ended = f"{found['status']}{code} in {found['seconds']:.3f} s, ${found['cost_usd']}"
        head = f"{found['id']}  {found['at']}  {ended}\n{head}"
    return head


COLUMNS = ("", "deployment", "cloud", "in/out per 1M", "this call", "first token p50/p95", "age", "errors", "cooling")


def _row(candidate: Mapping[str, Any]) -> Sequence[str]:
    price, ttft = candidate["price_usd_per_1m"], candidate["latency"]["ttft"]
    return (
        str(candidate["rank"] or "-"),
        candidate["deployment"],
        candidate["cloud"],
        f"${price['in']}/{price['out']}" if price else "unknown",
        f"${candidate['expected_cost_usd']}" if candidate["expected_cost_usd"] else "unknown",
        f"{ttft['p50_s'] * 1000:.0f}/{ttft['p95_s'] * 1000:.0f} ms" if ttft else "unknown",
        f"{ttft['age_s']:.0f} s" if ttft else "",
        f"{candidate['error_rate']:.0%}",
        f"{candidate['cooling_s']:.1f} s" if candidate["cooling_s"] else "",
    )


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def _attempt_line(number: int, attempt: Mapping[str, Any]) -> str:
    parts = [f"attempt {number} {attempt['deployment']}: {attempt['outcome']}"]
    if attempt["message"]:
        parts.append(attempt["message"])
    if attempt["first_byte_s"] is not None:
        parts.append(f"first content after {attempt['first_byte_s'] * 1000:.0f} ms")
    if attempt["seconds"] is not None:
        parts.append(f"{attempt['seconds'] * 1000:.0f} ms in all")
    parts += [f"{what} {how}" for what, how in attempt["degraded"].items()]
    estimated = " (estimated)" if attempt["cost_estimated"] else ""
    return ", ".join([*parts, f"${attempt['cost_usd']}{estimated}"])
