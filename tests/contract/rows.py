"""One example of each OpenAI request parameter, and the clouds and modes that it is tried at."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.types import Endpoint, Missing
from sandbox.cloud import clouds

MODES: tuple[Missing, ...] = ("strict", "emulate", "lossy")
CLOUDS = tuple(clouds())
WEIGHTS = "llama-3.3-70b"
"""What is tried, where a cloud has it."""

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
USER = {"role": "user", "content": "Tell me of llamas."}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}


class Row(NamedTuple):
    """`name` is the parameter, `value` what is sent; `beside` are fields that it needs. `label` tells rows apart."""

    name: str
    value: Any
    beside: Mapping[str, Any] = {}
    label: str = ""

    @property
    def title(self) -> str:
        return f"`{self.name}`{', ' if self.label else ''}{self.label}"


CHAT = (
    Row("messages", [USER]),
    Row("messages", [{"role": "user", "content": [{"type": "text", "text": "What?"}, PICTURE]}], {}, "a picture"),
    Row("model", "r"),
    Row("audio", {"voice": "alloy", "format": "wav"}),
    Row("frequency_penalty", 0.5),
    Row("function_call", {"name": "weather"}, {"functions": [FUNCTION]}),
    Row("functions", [FUNCTION]),
    Row("logit_bias", {"50": 10}),
    Row("logprobs", True),
    Row("max_completion_tokens", 9),
    Row("max_tokens", 9),
    Row("max_tokens", 50_000, {}, "beyond the model's"),
    Row("metadata", {"a": "b"}),
    Row("modalities", ["text", "audio"], {}, "with audio"),
    Row("moderation", {"a": "b"}),
    Row("n", 2),
    Row("parallel_tool_calls", False, {"tools": [TOOL]}, "false"),
    Row("prediction", {"type": "content", "content": "A llama"}),
    Row("presence_penalty", 0.5),
    Row("prompt_cache_key", "k"),
    Row("prompt_cache_options", {"a": "b"}),
    Row("prompt_cache_retention", "24h"),
    Row("reasoning_effort", "low"),
    Row("response_format", {"type": "json_object"}, {}, "json_object"),
    Row("response_format", {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}, {}, "json_schema"),
    Row("safety_identifier", "s"),
    Row("seed", 7),
    Row("service_tier", "flex"),
    Row("stop", ["zebra"]),
    Row("stop", ["a b", "c d", "e f", "g h", "i j"], {}, "five strings"),
    Row("store", True),
    Row("stream", True),
    Row("stream", True, {"tools": [TOOL]}, "with tools"),
    Row("stream_options", {"include_usage": True}, {"stream": True}),
    Row("temperature", 0.5),
    Row("temperature", 1.7, {}, "above 1"),
    Row("tool_choice", "required", {"tools": [TOOL]}),
    Row("tools", [TOOL]),
    Row("top_logprobs", 2, {"logprobs": True}),
    Row("top_p", 0.5),
    Row("user", "u"),
    Row("verbosity", "low"),
    Row("web_search_options", {"search_context_size": "low"}),
    Row("top_k", 5, {}, "or any vendor's own"),
)

COMPLETIONS = (
    Row("prompt", "Tell me of llamas."),
    Row("model", "r"),
    Row("best_of", 2),
    Row("echo", True),
    Row("frequency_penalty", 0.5),
    Row("logit_bias", {"50": 10}),
    Row("logprobs", 1),
    Row("max_tokens", 9),
    Row("n", 2),
    Row("presence_penalty", 0.5),
    Row("seed", 7),
    Row("stop", ["zebra"]),
    Row("stream", True),
    Row("stream_options", {"include_usage": True}, {"stream": True}),
    Row("suffix", "x"),
    Row("temperature", 0.5),
    Row("top_p", 0.5),
    Row("user", "u"),
)

EMBEDDINGS = (
    Row("input", "Tell me of llamas."),
    Row("model", "r"),
    Row("dimensions", 8),
    Row("encoding_format", "base64"),
    Row("user", "u"),
)

ROWS: Mapping[Endpoint, tuple[Row, ...]] = {
    "chat/completions": CHAT,
    "completions": COMPLETIONS,
    "embeddings": EMBEDDINGS,
}
_LEAST: Mapping[Endpoint, Mapping[str, Any]] = {
    "chat/completions": {"model": "r", "messages": [USER]},
    "completions": {"model": "r", "prompt": "Tell me of llamas."},
    "embeddings": {"model": "r", "input": "Tell me of llamas."},
}


def request(row: Row, endpoint: Endpoint) -> dict[str, Any]:
    """The request with the parameter."""
    return {**_LEAST[endpoint], **row.beside, row.name: row.value}


def without(row: Row, endpoint: Endpoint) -> dict[str, Any]:
    """The same request without it, or with another value where it must be there."""
    others = {**_LEAST[endpoint], **row.beside}
    if row.name in ("messages", "prompt", "input"):
        others[row.name] = [{"role": "user", "content": "x"}] if row.name == "messages" else "x"
    return others


def config(accounts: Mapping[str, Any], missing: Missing, endpoint: Endpoint) -> dict[str, Any]:
    """One route for each cloud, called `on-` and its name."""
    found = clouds()
    routes = {}
    for name in accounts:
        offered = found[name].deployments
        fields = offered.get(WEIGHTS) or next(iter(offered.values()))
        if endpoint != "chat/completions":
            fields = {**_MODELS[endpoint][name], "features": [f"+{endpoint}"]}
        policies = [{"capability": {"missing": missing}}]
        routes[f"on-{name}"] = {"deployments": [{"account": name, **fields}], "policies": policies}
    return {"providers": dict(accounts), "routes": routes}


_MODELS: Mapping[Endpoint, Mapping[str, Mapping[str, Any]]] = {
    "completions": {"vllm": {"model": "meta-llama/Llama-3.3-70B-Instruct"}},
    "embeddings": {
        "openai": {"model": "text-embedding-3-small"},
        "azure": {"model": "text-embedding-3-small"},
    },
}
"""Where the other endpoints are tried: at clouds of the box that have them."""


def clouds_of(endpoint: Endpoint) -> tuple[str, ...]:
    return CLOUDS if endpoint == "chat/completions" else tuple(_MODELS[endpoint])
