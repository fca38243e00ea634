"""What a vLLM says of its own load: the response header and the Prometheus page, names as vLLM 0.32 has them."""

import json
from collections.abc import Iterator, Mapping

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
    """The page, a line at a time."""
    labels = f'engine="0",model_name="{model}"'
    values = _values(site)
    for name, words, more in _ROWS:
        if words:
            yield f"# HELP vllm:{name} {words}"
        yield f"vllm:{name}{{{labels}{more}}} {float(values.get(name, 0.0))}"
    for reason, count in site.counters.success.items():
        yield f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}'


def _values(site: Site) -> Mapping[str, float]:
    running, waiting, kv = _load(site)
    done = site.counters
    return {
        "num_requests_running": running,
        "num_requests_waiting": waiting,
        "num_requests_waiting_by_reason": waiting,
        "kv_cache_usage_perc": kv,
        "prefix_cache_queries_total": done.prompt_tokens,
        "prompt_tokens_total": done.prompt_tokens,
        "generation_tokens_total": done.generation_tokens,
        "time_to_first_token_seconds_count": done.answers,
        "time_to_first_token_seconds_sum": done.prefill_s,
        "request_prefill_time_seconds_count": done.answers,
        "request_prefill_time_seconds_sum": done.prefill_s,
        "request_decode_time_seconds_count": done.answers,
        "request_decode_time_seconds_sum": done.decode_s,
    }


_ROWS: tuple[tuple[str, str, str], ...] = (  # name, help, further labels
    ("num_requests_running", "Number of requests in model execution batches.", ""),
    ("num_requests_waiting", "Number of requests waiting to be processed.", ""),
    ("num_requests_waiting_by_reason", "Number of waiting requests by reason.", ',reason="capacity"'),
    ("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", ""),
    ("prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.", ""),
    ("prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", ""),
    ("num_preemptions_total", "Cumulative number of preemption from the engine.", ""),
    ("prompt_tokens_total", "Number of prefill tokens processed.", ""),
    ("prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).", ""),
    ("generation_tokens_total", "Number of generation tokens processed.", ""),
    ("time_to_first_token_seconds_count", "Histogram of time to first token in seconds.", ""),
    ("time_to_first_token_seconds_sum", "", ""),
    ("request_prefill_time_seconds_count", "Histogram of time spent in PREFILL phase for request.", ""),
    ("request_prefill_time_seconds_sum", "", ""),
    ("request_decode_time_seconds_count", "Histogram of time spent in DECODE phase for request.", ""),
    ("request_decode_time_seconds_sum", "", ""),
)
