"""Self-hosted vLLM: OpenAI's API, its load in a response header or in /metrics, priced by the hour of its GPUs.

Source: vLLM 0.32.0, run; see tests/golden."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec

from gateway.account import Count
from gateway.secret import Secret
from gateway.types import Observed
from providers.openai import OpenAI

LOAD_HEADER = "endpoint-load-metrics"


class VLLM(OpenAI, frozen=True, kw_only=True):
    """`url` is the base with /v1. `gpu_usd_per_hour` times `gpus` is what the server costs whether it works or not.
    `metrics_every_s` reads /metrics in the background; 0 leaves it at what each answer's header tells."""

    title = "self-hosted vLLM"
    credentials = "optional API key"
    remark = (
        "tools need `--enable-auto-tool-choice` and a parser at the server, pictures and embeddings a server with "
        "weights that see or embed."
    )
    url: str = "http://127.0.0.1:8000/v1"
    api_key: Secret | None = None
    gpu_usd_per_hour: Decimal | None = None
    gpus: Count = 1
    metrics_every_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0

    def headers(self) -> Sequence[tuple[str, str]]:
        return [*super().headers(), ("endpoint-load-metrics-format", "JSON")]

    def load(self, headers: Mapping[str, str]) -> tuple[int | None, float | None]:
        text = headers.get(LOAD_HEADER)
        return read_load(text) if text else (None, None)

    def poll_every_s(self) -> float:
        return self.metrics_every_s

    def state(self, metrics: str) -> Observed:
        return read_metrics(metrics)


_GAUGES = re.compile(
    r"^vllm:(?P<name>num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)(?:\{[^}]*\})?"
    r" (?P<value>\d+(?:\.\d+)?(?:e[-+]?\d+)?)$",
    re.MULTILINE,
)


def read_metrics(text: str) -> Observed:
    """Calls waiting, summed over engines, and the fullest KV cache; older releases call it gpu_cache_usage_perc."""
    found: dict[str, list[float]] = {}
    for match in _GAUGES.finditer(text):
        value = float(match["value"])
        if math.isfinite(value):
            found.setdefault(match["name"], []).append(value)
    waiting = found.get("num_requests_waiting")
    kv_used = found.get("kv_cache_usage_perc") or found.get("gpu_cache_usage_perc")
    return Observed(None, int(sum(waiting)) if waiting else None, max(kv_used) if kv_used else None)


class _Load(msgspec.Struct):
    named_metrics: dict[str, float] = {}


def read_load(text: str) -> tuple[int | None, float | None]:
    """`JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}`; (None, None) for another."""
    try:
        found = msgspec.json.decode(text.removeprefix("JSON").strip(), type=_Load).named_metrics
    except msgspec.MsgspecError:
        return None, None
    waiting = found.get("num_requests_waiting")
    return None if waiting is None else int(waiting), found.get("kv_cache_usage_perc")
