"""What the line or the rows of a call say, as `explain` shows it: who was considered, removed, tried, at what cost."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.ledger.database import Database
from gateway.ledger.rows import ATTEMPTS, CALLS, Seen
from gateway.prices import usd
from gateway.types import Price

_decode = msgspec.json.decode
Row = Mapping[str, Any]


def recall(database: Database, id_: str) -> dict[str, Any] | None:
    """The call of that decision or request id, the latest of that."""
    calls = _select("arriero_calls", CALLS, "id = ? OR request_id = ?", "at_ms DESC LIMIT 1")
    for row in database.rows(calls, (id_, id_)):
        call = _of_database(CALLS, row)
        attempts = database.rows(_select("arriero_attempts", ATTEMPTS, "call_id = ?", "n"), (call["id"],))
        return _became(call, [_of_database(ATTEMPTS, attempt) for attempt in attempts])
    return None


def told(line: bytes) -> dict[str, Any]:
    """The same of the line of a call."""
    call, attempts = _decode(line)
    return _became(_named(CALLS, call), [_named(ATTEMPTS, attempt) for attempt in attempts])


def considered(line: bytes) -> dict[str, Any]:
    """Of a line what was known when the call was decided."""
    return _considered(_named(CALLS, _decode(line)[0]))


def _select(table: str, columns: Sequence[tuple[str, str]], where: str, order: str) -> str:
    names = ", ".join(name for name, _ in columns)
    return f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608  (our own words)


def _named(columns: Sequence[tuple[str, str]], row: Sequence[Any]) -> Row:
    return {name: value for (name, _), value in zip(columns, row, strict=True)}


def _of_database(columns: Sequence[tuple[str, str]], row: Sequence[Any]) -> Row:
    return {name: _decode(value) if kind == "json" else value for (name, kind), value in zip(columns, row, strict=True)}


def _considered(call: Row) -> dict[str, Any]:
    decision = call["decision"]
    order = decision.get("order", [])
    return {
        "route": call["route"],
        "key": call["key_name"],
        "endpoint": call["endpoint"],
        "stream": bool(call["stream"]),
        "features": sorted(decision.get("features", ())),
        "labels": call["labels"],
        "prompt_tokens": decision.get("prompt_tokens", call["prompt_tokens"]),
        "max_output_tokens": decision.get("max_output_tokens"),
        "expected_output_tokens": decision.get("expected_output_tokens", call["output_tokens"]),
        "policies": decision.get("policies", []),
        "notes": [{"policy": policy, "note": note} for policy, note in decision.get("notes", ())],
        "order": order,
        "candidates": [_candidate(row, decision, order) for row in decision.get("candidates", ())],
        "baseline": None,
    }


def _became(call: Row, attempts: Sequence[Row]) -> dict[str, Any]:
    return _considered(call) | {
        "id": call["id"],
        "request_id": call["request_id"],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call["at_ms"] / 1000)),
        "status": call["status"],
        "code": call["code"] or (call["outcome"] if call["outcome"] == "lost_in_crash" else None),
        "seconds": call["total_ms"] / 1000,
        "baseline": _baseline(call),
        "attempts": [_attempt(attempt) for attempt in attempts],
        "cost_usd": usd(call["spent_nano"]),
    }


def _baseline(call: Row) -> dict[str, Any] | None:
    nano, model = call["baseline_nano"], call["baseline_model"]
    return None if nano is None else {"model": model, "expected_cost_usd": usd(nano)}


def _candidate(row: Sequence[Any], decision: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    seen = msgspec.convert(row, Seen)
    policy, reason = decision.get("removed", {}).get(seen.name, (None, None))
    expected = decision["prompt_tokens"], decision["expected_output_tokens"]
    requests_left, tokens_left = seen.room or (1.0, 1.0)
    price = _price(seen.price) if seen.price else None
    return {
        "deployment": seen.name,
        "cloud": seen.cloud,
        "model": seen.model,
        "region": seen.region,
        "rank": order.index(seen.name) + 1 if seen.name in order else None,
        "removed_by": policy,
        "reason": reason,
        "price_usd_per_1m": {"in": usd(price.input), "out": usd(price.output)} if price else None,
        "expected_cost_usd": usd(price.cost(*expected)) if price else None,
        "latency": {
            "ttft": _quantiles(seen.ttft, decision["now"]),
            "per_token": _quantiles(seen.tpot, decision["now"]),
        },
        "error_rate": round(seen.error_rate, 4),
        "failures_in_a_row": seen.failures,
        "in_flight": seen.in_flight,
        "queue": seen.queue,
        "kv_used": seen.kv_used,
        "cooling_s": round(max(0.0, seen.cooling_until - decision["now"]), 3),
        "requests_left": requests_left,
        "tokens_left": tokens_left,
    }


def _price(told: Sequence[int]) -> Price:
    input_, output, *long = told
    return Price(input_, output, None, long[0], Price(long[1], long[2])) if long else Price(input_, output)


def _quantiles(told: tuple[float, float, int, float] | None, now: float) -> dict[str, Any] | None:
    if told is None:
        return None
    p50_s, p95_s, samples, updated = told
    return {"p50_s": round(p50_s, 5), "p95_s": round(p95_s, 5), "samples": samples, "age_s": round(now - updated, 1)}


def _attempt(row: Row) -> dict[str, Any]:
    return {
        "deployment": row["deployment"],
        "outcome": row["outcome"],
        "message": row["message"] or None,
        "status": row["status"] or None,
        "began_s": row["began_ms"] / 1000,
        "first_byte_s": None if row["ttft_ms"] is None else row["ttft_ms"] / 1000,
        "seconds": row["total_ms"] / 1000,
        "prompt_tokens": row["prompt_tokens"],
        "cached_tokens": row["cached_tokens"],
        "output_tokens": row["output_tokens"],
        "cost_usd": usd(row["cost_nano"]),
        "cost_estimated": bool(row["estimated"]),
        "degraded": row["degraded"],
    }
