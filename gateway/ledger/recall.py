"""A call of the ledger as `explain` shows it: what the ring in memory has forgotten."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.ledger.database import Database
from gateway.ledger.rows import ATTEMPTS, CALLS
from gateway.prices import usd
from gateway.types import Price

_decode = msgspec.json.decode
Row = Mapping[str, Any]


def recall(database: Database, id_: str) -> dict[str, Any] | None:
    """The call of that decision or request id, the latest of that."""
    calls = _select("arriero_calls", CALLS, "id = ? OR request_id = ?", "at_ms DESC LIMIT 1")
    for row in database.rows(calls, (id_, id_)):
        call = _named(CALLS, row)
        attempts = database.rows(_select("arriero_attempts", ATTEMPTS, "call_id = ?", "n"), (call["id"],))
        return _shown(call, [_named(ATTEMPTS, attempt) for attempt in attempts])
    return None


def _select(table: str, columns: Sequence[tuple[str, str]], where: str, order: str) -> str:
    names = ", ".join(name for name, _ in columns)
    return f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}"  # noqa: S608  (our own words)


def _named(columns: Sequence[tuple[str, str]], row: Sequence[Any]) -> Row:
    return {name: _decode(value) if kind == "json" else value for (name, kind), value in zip(columns, row, strict=True)}


def _shown(call: Row, attempts: Sequence[Row]) -> dict[str, Any]:
    decision = call["decision"]
    order = decision.get("order", [])
    usual = {"max_output_tokens": None, "expected_output_tokens": call["output_tokens"], "features": [], "policies": []}
    return {
        **{word: decision.get(word, usually) for word, usually in usual.items()},
        "id": call["id"],
        "request_id": call["request_id"],
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call["at_ms"] / 1000)),
        "status": call["status"],
        "code": call["code"] or (call["outcome"] if call["outcome"] == "lost_in_crash" else None),
        "seconds": call["total_ms"] / 1000,
        "route": call["route"],
        "key": call["key_name"],
        "endpoint": call["endpoint"],
        "stream": bool(call["stream"]),
        "labels": call["labels"],
        "prompt_tokens": decision.get("prompt_tokens", call["prompt_tokens"]),
        "notes": [{"policy": policy, "note": note} for policy, note in decision.get("notes", ())],
        "order": order,
        "candidates": [_candidate(row, decision, order) for row in decision.get("candidates", ())],
        "baseline": _baseline(call),
        "attempts": [_attempt(attempt) for attempt in attempts],
        "cost_usd": usd(call["spent_nano"]),
    }


def _baseline(call: Row) -> dict[str, Any] | None:
    nano, model = call["baseline_nano"], call["baseline_model"]
    return None if nano is None else {"model": model, "expected_cost_usd": usd(nano)}


def _candidate(row: Sequence[Any], decision: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    name, cloud, model, region, price, ttft, errors, failures, in_flight, queue, kv_used, cooling_until, room = row
    policy, reason = decision["removed"].get(name, (None, None))
    expected = decision["prompt_tokens"], decision["expected_output_tokens"]
    found = msgspec.convert(price, Price) if price else None
    return {
        "deployment": name,
        "cloud": cloud,
        "model": model,
        "region": region,
        "rank": order.index(name) + 1 if name in order else None,
        "removed_by": policy,
        "reason": reason,
        "price_usd_per_1m": {"in": usd(found.input), "out": usd(found.output)} if found else None,
        "expected_cost_usd": usd(found.cost(*expected)) if found else None,
        "latency": {"ttft": ttft and _quantiles(ttft, decision["now"])},
        "error_rate": round(errors, 4),
        "failures_in_a_row": failures,
        "in_flight": in_flight,
        "queue": queue,
        "kv_used": kv_used,
        "cooling_s": round(max(0.0, cooling_until - decision["now"]), 3),
        "requests_left": room["requests_left"],
        "tokens_left": room["tokens_left"],
    }


def _quantiles(found: Mapping[str, Any], now: float) -> dict[str, Any]:
    times = {word: round(found[word], 5) for word in ("p50_s", "p95_s")}
    return {**times, "samples": found["samples"], "age_s": round(now - found["updated"], 1)}


def _attempt(row: Row) -> dict[str, Any]:
    return {
        "deployment": row["deployment"],
        "outcome": row["outcome"],
        "message": row["message"] or None,
        "status": row["status"] or None,
        "began_s": row["began_ms"] / 1000,
        "first_byte_s": None if row["ttft_ms"] is None else row["ttft_ms"] / 1000,
        "seconds": row["total_ms"] / 1000,
        "cost_usd": usd(row["cost_nano"]),
        "cost_estimated": bool(row["estimated"]),
        "degraded": row["degraded"],
    }
