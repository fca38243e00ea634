"""Self-hosted vLLM: OpenAI's API, its load in a response header or in /metrics, priced by the hour of its GPUs.

Source: vLLM 0.32.0, run; see tests/golden."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec

from gateway.account import Count
from gateway.secret import Secret
from providers.openai import OpenAI

LOAD_HEADER = "endpoint-load-metrics"


class VLLM(OpenAI, frozen=True, kw_only=True):
    """`url` is the base with /v1. `gpu_usd_per_hour` times `gpus` is what the server costs whether it works or not.
    `metrics_every_s` reads /metrics in the background; 0 leaves it at what each answer's header tells."""

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
