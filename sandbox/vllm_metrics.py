"""What a vLLM says of its own load: the response header and the Prometheus page, names as vLLM 0.32 has them."""

import json
from collections.abc import Iterator

from sandbox.site import Site


def _load(site: Site) -> tuple[float, float, float]:
    """(running, waiting, share of the KV cache in use)."""
    told = site.behaviour.load
    running = float(site.running) if told.num_requests_running is None else told.num_requests_running
    kv = min(1.0, running / 256) if told.kv_cache_usage_perc is None else told.kv_cache_usage_perc
    return running, told.num_requests_waiting or 0.0, kv


def load_header(wanted: str, site: Site) -> str:
    _, waiting, kv = _load(site)
    named = {"num_requests_waiting": waiting, "kv_cache_usage_perc": kv}
    if wanted == "TEXT":
        return "TEXT " + ", ".join(f"named_metrics.{name}={value}" for name, value in named.items())
    return "JSON " + json.dumps({"named_metrics": named}, separators=(",", ":"))


def metric_lines(model: str, site: Site) -> Iterator[str]:
    labels = f'engine="0",model_name="{model}"'
    running, waiting, kv = _load(site)
    done = site.counters
    rows: list[tuple[str, str, str, str, float]] = [
        ("num_requests_running", "gauge", "Number of requests in model execution batches.", "", running),
        ("num_requests_waiting", "gauge", "Number of requests waiting to be processed.", "", waiting),
        (
            "num_requests_waiting_by_reason",
            "gauge",
            "Number of waiting requests by reason.",
            ',reason="capacity"',
            waiting,
        ),
        ("num_requests_waiting_by_reason", "gauge", "", ',reason="deferred"', 0.0),
        ("kv_cache_usage_perc", "gauge", "KV-cache usage. 1 means 100 percent usage.", "", kv),
        (
            "prefix_cache_queries_total",
            "counter",
            "Prefix cache queries, in terms of number of queried tokens.",
            "",
            done.prompt_tokens,
        ),
        ("prefix_cache_hits_total", "counter", "Prefix cache hits, in terms of number of cached tokens.", "", 0),
        ("num_preemptions_total", "counter", "Cumulative number of preemption from the engine.", "", 0),
        ("prompt_tokens_total", "counter", "Number of prefill tokens processed.", "", done.prompt_tokens),
        ("prompt_tokens_cached_total", "counter", "Number of cached prompt tokens (local + external).", "", 0),
        ("generation_tokens_total", "counter", "Number of generation tokens processed.", "", done.generation_tokens),
        (
            "time_to_first_token_seconds_count",
            "counter",
            "Histogram of time to first token in seconds.",
            "",
            done.ttft_count,
        ),
        ("time_to_first_token_seconds_sum", "counter", "", "", done.ttft_sum_s),
        (
            "request_prefill_time_seconds_count",
            "counter",
            "Histogram of time spent in PREFILL phase for request.",
            "",
            done.ttft_count,
        ),
        ("request_prefill_time_seconds_sum", "counter", "", "", done.ttft_sum_s),
        (
            "request_decode_time_seconds_count",
            "counter",
            "Histogram of time spent in DECODE phase for request.",
            "",
            done.ttft_count,
        ),
        ("request_decode_time_seconds_sum", "counter", "", "", done.decode_sum_s),
    ]
    rows += [
        (
            "request_success_total",
            "counter",
            "Count of successfully processed requests.",
            f',finished_reason="{reason}"',
            count,
        )
        for reason, count in done.success.items()
    ]
    for name, _, words, more, value in rows:
        if words:
            yield f"# HELP vllm:{name} {words}"
        yield f"vllm:{name}{{{labels}{more}}} {float(value)}"
