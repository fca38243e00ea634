"""OpenAI's own wire: the box's generic OpenAI-compatible server and the closed baseline; vision, embeddings."""

from collections.abc import Mapping
from typing import ClassVar

from sandbox.answers import Choice, key_of
from sandbox.cloud import json_reply
from sandbox.limits import Short, go_duration
from sandbox.openai_shape import OpenAIShape, Route, Talk
from sandbox.prompt import count_images
from sandbox.site import Site
from sandbox.types import Json, Model, Refusal, Reply, Request

_KNOWN_FIELDS = """
model messages audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
metadata modalities n parallel_tool_calls prediction presence_penalty prompt_cache_key reasoning_effort
response_format safety_identifier seed service_tier stop store stream stream_options temperature tool_choice tools
top_logprobs top_p user verbosity web_search_options
"""  # openai 3.54, Completions.create
_KNOWN = frozenset(_KNOWN_FIELDS.split())
_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "n": (1, 128),
    "top_logprobs": (0, 20),
}


class OpenAI(OpenAIShape):
    name: ClassVar[str] = "openai"
    order: ClassVar[int] = 7
    demo: ClassVar[Mapping[str, str]] = {"api_key": "sk-sandbox"}
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    models: ClassVar[Mapping[str, Model]] = {
        "gpt-4o": Model(128_000, 16_384, vision=True),
        "gpt-4o-mini": Model(128_000, 16_384, vision=True),
        "meta-llama/Llama-3.1-8B-Instruct": Model(131_072, 131_072),
        "meta-llama/Llama-3.1-70B-Instruct": Model(131_072, 131_072),
        "text-embedding-3-small": Model(8_192, 0, vector=1536),
        "text-embedding-3-large": Model(8_192, 0, vector=3072),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "gpt-4o": {"model": "gpt-4o", "price": {"in": 2.5, "out": 10.0}}
    }
    pace: ClassVar[tuple[float, float]] = (0.4, 0.012)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {**super().routes(), "/v1/embeddings": {"POST": self.embed}}

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        out = [("openai-organization", "org-sandbox"), ("openai-version", "2020-10-01")]
        out += [("x-request-id", f"req_{key_of(request.path, site.next_number()):032x}"), ("openai-processing-ms", "1")]
        out += [("server", "cloudflare")]
        if self.credential(request, site) == "ok" and request.method == "POST":
            now = site.now()
            for word, room in (
                ("requests", site.limiter.requests.room(now)),
                ("tokens", site.limiter.tokens.room(now)),
            ):
                out += [
                    (f"x-ratelimit-limit-{word}", str(room.limit)),
                    (f"x-ratelimit-remaining-{word}", str(room.remaining)),
                    (f"x-ratelimit-reset-{word}", go_duration(room.reset_s)),
                ]
        return out

    # ------------------------------------------------------------------ refusals
    def unauthorized(self, credential: str) -> Refusal:
        if credential == "none":
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header "
                "using Bearer auth "
                "(i.e. Authorization: Bearer YOUR_KEY)."
            )
            return self.error(401, message, "invalid_request_error")
        message = (
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys."
        )
        return self.error(401, message, "invalid_request_error", code="invalid_api_key")

    def limited(self, short: Short) -> Refusal:
        message = (
            f"Rate limit reached in organization org-sandbox on {short.what} per min: Limit {short.limit}, Used "
            f"{short.used}, "
            f"Requested {short.requested}. Please try again in {go_duration(short.wait_s)}."
        )
        refusal = self.error(429, message, short.what, code="rate_limit_exceeded")
        refusal.headers["retry-after"] = str(max(1, -int(-short.wait_s // 1)))
        refusal.headers["retry-after-ms"] = str(int(short.wait_s * 1000) + 1)
        return refusal

    def failure(self, status: int) -> Refusal:
        if status == 429:
            return self.limited(Short("tokens", 30_000, 29_000, 2_000, 2.0))
        if status >= 500:
            return self.error(
                status, "The server had an error while processing your request. Sorry about that!", "server_error"
            )
        return self.error(status, f"Request refused with status {status}", "invalid_request_error")

    # ------------------------------------------------------------------ reading
    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        if model.vector:
            raise self.error(403, "You are not allowed to sample from this model", "invalid_request_error")
        for name in body:
            if name not in _KNOWN:
                raise self.invalid(f"Unrecognized request argument supplied: {name}")
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
            message = "Invalid type for 'messages': expected an array of objects."
            raise self.invalid(message, "messages", "invalid_type")
        if not messages:
            message = (
                "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
                "empty array instead."
            )
            raise self.invalid(message, "messages", "empty_array")
        if count_images(messages) and not model.vision:
            raise self.invalid("Invalid content type. image_url is only supported by certain models.", "messages")
        self._check_numbers(body, model)
        self._check_shape(body)

    def _check_numbers(self, body: dict[str, Json], model: Model) -> None:
        for name, (low, high) in _RANGES.items():
            value = body.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.invalid(f"Invalid type for '{name}': expected a decimal number.", name, "invalid_type")
            if not low <= value <= high:
                word, code = (
                    ("above maximum", "decimal_above_max_value")
                    if value > high
                    else ("below minimum", "decimal_below_min_value")
                )
                edge = f"<= {high}" if value > high else f">= {low}"
                raise self.invalid(
                    f"Invalid '{name}': decimal {word} value. Expected a value {edge}, but got {value} instead.",
                    name,
                    code,
                )
        for name in ("max_tokens", "max_completion_tokens"):
            asked = body.get(name)
            if asked is not None and (not isinstance(asked, int) or asked < 1):
                message = (
                    f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {asked} instead."
                )
                raise self.invalid(message, name, "integer_below_min_value")
            if asked is not None and asked > model.max_output_tokens:
                message = (
                    f"{name} is too large: {asked}. This model supports at most {model.max_output_tokens} "
                    "completion tokens, "
                    f"whereas you provided {asked}."
                )
                raise self.invalid(message, name, "invalid_value")

    def _check_shape(self, body: dict[str, Json]) -> None:
        stop = body.get("stop")
        if isinstance(stop, list) and len(stop) > 4:
            message = (
                "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an "
                f"array with length {len(stop)} instead."
            )
            raise self.invalid(message, "stop", "array_above_max_length")
        if body.get("stream_options") is not None and not body.get("stream"):
            message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
            raise self.invalid(message, "stream_options")
        if body.get("top_logprobs") is not None and not body.get("logprobs"):
            message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled."
            raise self.invalid(message, "top_logprobs")
        if body.get("tool_choice") not in (None, "none") and not body.get("tools"):
            raise self.invalid("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
        kind = (body.get("response_format") or {}).get("type")
        if kind == "json_object" and "json" not in str(body["messages"]).lower():
            message = (
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )
            raise self.invalid(message, "messages")

    # ------------------------------------------------------------------ rendering
    def usage(self, talk: Talk, generated: int) -> dict[str, Json]:
        return {
            **super().usage(talk, generated),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def whole(self, talk: Talk) -> dict[str, Json]:
        return {**super().whole(talk), "service_tier": "default", "system_fingerprint": "fp_sandbox00"}

    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        return {**super().message(talk, choice), "refusal": None, "annotations": []}

    def logprobs(self, talk: Talk, pieces: object, place: int) -> Json:
        made = super().logprobs(talk, pieces, place)  # type: ignore[arg-type]
        return None if made is None else {**made, "refusal": None}

    def start_chunk(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        delta = {"role": "assistant", "content": None if choice.calls else "", "refusal": None}
        return self.chunk(talk, [self.delta_choice(talk, choice, delta, None)])

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        out: dict[str, Json] = {
            "id": talk.id,
            "object": "chat.completion.chunk",
            "created": talk.created,
            "model": talk.model,
            "service_tier": "default",
            "system_fingerprint": "fp_sandbox00",
            "choices": choices,
        }
        if talk.wants_usage:
            out["usage"] = None
        return out

    # ------------------------------------------------------------------ models
    def _row(self, name: str, site: Site) -> dict[str, Json]:
        return {"id": name, "object": "model", "created": int(site.began_wall), "owned_by": "system"}

    def list_models(self, request: Request, site: Site) -> Reply:
        return json_reply({"object": "list", "data": [self._row(name, site) for name in self.models]})

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        if name not in self.models:
            raise self.error(
                404, f"The model '{name}' does not exist", "invalid_request_error", "model", "model_not_found"
            )
        return json_reply(self._row(name, site))


CLOUD = OpenAI()
