"""Groq's wire: /openai/v1, timings in usage, x_groq, rate-limit headers on every answer, and what it refuses.

Sources: groq 1.7.0 (fields, types); console.groq.com/docs/rate-limits; words of unknown fields fanenr/chatbot#21,
janhq/jan#8136, ServiceStack/llms#17; of limits Aider#3265.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from sandbox.answers import Choice, key_of
from sandbox.cloud import json_reply
from sandbox.limits import Short, go_duration
from sandbox.openai_shape import DONE, OpenAIShape, Route, Talk
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Reply, Request

_UNSUPPORTED = ("logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty")
_KNOWN_FIELDS = """
model messages citation_options compound_custom disable_tool_validation documents exclude_domains frequency_penalty
function_call functions include_domains include_reasoning logit_bias logprobs max_completion_tokens max_tokens
metadata n parallel_tool_calls presence_penalty reasoning_effort reasoning_format response_format search_settings
seed service_tier stop store stream stream_options temperature tool_choice tools top_logprobs top_p user
"""  # groq 1.7.0, Completions.create
_KNOWN = frozenset(_KNOWN_FIELDS.split())
_MESSAGE_FIELDS: Mapping[str, frozenset[str]] = {
    "system": frozenset({"role", "content", "name"}),
    "developer": frozenset({"role", "content", "name"}),
    "user": frozenset({"role", "content", "name"}),
    "assistant": frozenset({"role", "content", "name", "function_call", "reasoning", "tool_calls"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
    "function": frozenset({"role", "content", "name"}),
}
_TIERS = ("auto", "on_demand", "flex", "performance")


class Groq(OpenAIShape):
    name: ClassVar[str] = "groq"
    order: ClassVar[int] = 2
    base_path: ClassVar[str] = "/openai/v1"
    demo: ClassVar[Mapping[str, str]] = {"api_key": "gsk_sandbox"}
    prefill: ClassVar[bool] = True
    models: ClassVar[Mapping[str, Model]] = {
        "llama-3.1-8b-instant": Model(131_072, 8_192),
        "llama-3.1-70b-versatile": Model(8_192, 8_192),
        "llama-3.1-405b-reasoning": Model(8_192, 8_192),
        "llama-3.3-70b-versatile": Model(131_072, 32_768),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-8b": {"model": "llama-3.1-8b-instant", "price": {"in": 0.05, "out": 0.08}},
        "llama-3.1-70b": {"model": "llama-3.1-70b-versatile", "price": {"in": 0.59, "out": 0.79}},
        "llama-3.1-405b": {"model": "llama-3.1-405b-reasoning", "price": {"in": 0.59, "out": 0.79}},
        "llama-3.3-70b": {"model": "llama-3.3-70b-versatile", "price": {"in": 0.59, "out": 0.79}},
    }
    pace: ClassVar[tuple[float, float]] = (0.12, 0.002)

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        out = [("cache-control", "private, max-age=0, no-store, no-cache, must-revalidate"), ("server", "cloudflare")]
        out += [
            ("vary", "Origin"),
            ("via", "1.1 google"),
            ("x-request-id", f"req_{key_of(request.path, site.next_number()):016x}"),
        ]
        if self.credential(request, site) == "ok" and request.method == "POST":
            now = site.now()
            requests, tokens = site.limiter.requests.room(now), site.limiter.tokens.room(now)
            out += [
                ("x-ratelimit-limit-requests", str(requests.limit)),
                ("x-ratelimit-limit-tokens", str(tokens.limit)),
                ("x-ratelimit-remaining-requests", str(requests.remaining)),
                ("x-ratelimit-remaining-tokens", str(tokens.remaining)),
                ("x-ratelimit-reset-requests", go_duration(requests.reset_s)),
                ("x-ratelimit-reset-tokens", go_duration(tokens.reset_s)),
            ]
        return out

    # ------------------------------------------------------------------ refusals
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        error: dict[str, Json] = {"message": message, "type": type_}
        if param is not None:
            error["param"] = param
        if code is not None:
            error["code"] = code
        return Refusal(status, {"error": error})

    def unauthorized(self, credential: str) -> Refusal:
        return self.error(401, "Invalid API Key", "invalid_request_error", code="invalid_api_key")

    def no_such_path(self, request: Request) -> Refusal:
        message = (
            f"Unknown request URL: {request.method} {request.path}. Please check the URL for typos, "
            "or see the docs at https://console.groq.com/docs/"
        )
        return self.error(404, message, "invalid_request_error", code="unknown_url")

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return self.no_such_path(request)

    def no_such_model(self, model: str) -> Refusal:
        message = f"The model `{model}` does not exist or you do not have access to it."
        return self.error(404, message, "invalid_request_error", code="model_not_found")

    def limited(self, short: Short) -> Refusal:
        unit = "requests per day (RPD)" if short.what == "requests" else "tokens per minute (TPM)"
        message = (
            f"Rate limit reached for model in organization `org_sandbox` service tier `on_demand` on {unit}: "
            f"Limit {short.limit}, Used {short.used}, Requested {short.requested}. Please try again in "
            f"{go_duration(short.wait_s)}."
        )
        refusal = self.error(429, message, short.what, code="rate_limit_exceeded")
        refusal.headers["retry-after"] = str(max(1, -int(-short.wait_s // 1)))
        return refusal

    def failure(self, status: int) -> Refusal:
        if status == 429:
            return self.limited(Short("tokens", 15_000, 11_972, 4_351, 5.289))
        kinds = {
            400: "invalid_request_error",
            401: "invalid_request_error",
            403: "permissions_error",
            404: "invalid_request_error",
        }
        if status < 500:
            return self.error(
                status, f"Request refused with status {status}", kinds.get(status, "invalid_request_error")
            )
        word = {503: "Service Unavailable", 498: "Flex tier capacity exceeded"}.get(status, "Internal Server Error")
        return self.error(status, word, "internal_server_error")

    # ------------------------------------------------------------------ reading
    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        for name in body:
            if name not in _KNOWN:
                near = difflib.get_close_matches(name, _KNOWN, 1)
                hint = f", did you mean '{near[0]}'?" if near else ""
                raise self.invalid(f"property '{name}' is unsupported{hint}")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise self.invalid("'messages' : minimum number of items is 1")
        for place, message in enumerate(messages):
            self._check_message(place, message)
        for name in _UNSUPPORTED:
            if body.get(name):
                raise self.invalid(f"`{name}` is not supported with this model", param=name)
        if (body.get("n") or 1) != 1:
            raise self.invalid("'n' : number must be at most 1", param="n")
        stop = body.get("stop")
        if isinstance(stop, list) and len(stop) > 4:
            raise self.invalid("'stop' : maximum number of items is 4", param="stop")
        self._check_numbers(body, model)
        self._check_form(body)

    def _check_message(self, place: int, message: Json) -> None:
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _MESSAGE_FIELDS:
            raise self.invalid(f"'messages.{place}' : discriminator property 'role' has invalid value")
        for name in message:
            if name not in _MESSAGE_FIELDS[role]:
                raise self.invalid(
                    f"'messages.{place}' : for 'role:{role}' the following must be satisfied"
                    f"[('messages.{place}' : property '{name}' is unsupported)]"
                )
        content = message.get("content")
        if isinstance(content, list) and any(part.get("type") != "text" for part in content):
            raise self.invalid(f"messages[{place}].content must be a string")

    def _check_numbers(self, body: dict[str, Json], model: Model) -> None:
        for name in ("max_tokens", "max_completion_tokens"):
            asked = body.get(name)
            if asked is not None and (not isinstance(asked, int) or asked < 1):
                raise self.invalid(f"'{name}' : number must be at least 1", param=name)
            if asked is not None and asked > model.max_output_tokens:
                raise self.invalid(
                    f"`{name}` must be less than or equal to `{model.max_output_tokens}`, the maximum value for "
                    f"`{name}` is "
                    "less than the `context_window` for this model",
                    param=name,
                )
        temperature = body.get("temperature")
        if temperature is not None and not 0 <= temperature <= 2:
            raise self.invalid("'temperature' : number must be between 0 and 2", param="temperature")
        if body.get("service_tier") not in (None, *_TIERS):
            raise self.invalid("'service_tier' : value must be one of " + ", ".join(_TIERS), param="service_tier")

    def _check_form(self, body: dict[str, Json]) -> None:
        kind = (body.get("response_format") or {}).get("type")
        if kind == "json_schema":
            raise self.invalid(
                "This model does not support response format `json_schema`. See supported models at "
                "https://console.groq.com/docs/structured-outputs#supported-models",
                param="response_format",
            )
        if kind == "json_object" and body.get("tools"):
            raise self.invalid("json mode cannot be combined with tool/function calling", param="response_format")
        if kind == "json_object" and "json" not in str(body["messages"]).lower():
            raise self.invalid(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
            )

    def check_room(self, prompt: int, asked: int | None, context: int) -> None:
        if prompt + (asked or 0) > context:
            total = prompt + (asked or 0)
            raise self.error(
                400,
                "Please reduce the length of the messages or completion. "
                f"Current length is {total} while limit is {context}",
                "invalid_request_error",
                param="messages",
                code="context_length_exceeded",
            )

    # ------------------------------------------------------------------ rendering
    def usage(self, talk: Talk, generated: int) -> dict[str, Json]:
        prompt_s, completion_s = talk.prompt_tokens * 0.00002, generated * self.pace[1]
        return {
            "queue_time": 0.018,
            "prompt_tokens": talk.prompt_tokens,
            "prompt_time": prompt_s,
            "completion_tokens": generated,
            "completion_time": completion_s,
            "total_tokens": talk.prompt_tokens + generated,
            "total_time": prompt_s + completion_s,
        }

    def _x_groq(self, talk: Talk) -> str:
        return "req_" + talk.id[-20:]

    def whole(self, talk: Talk) -> dict[str, Json]:
        return {
            **super().whole(talk),
            "usage_breakdown": None,
            "system_fingerprint": "fp_sandbox00",
            "x_groq": {"id": self._x_groq(talk)},
            "service_tier": talk.body.get("service_tier") or "on_demand",
        }

    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        if choice.calls:
            return {"role": "assistant", "tool_calls": self.tool_calls(choice)}
        return {"role": "assistant", "content": choice.text}

    def start_chunk(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        delta = {"role": "assistant", "content": None if choice.calls else ""}
        return {
            **self.chunk(talk, [self.delta_choice(talk, choice, delta, None)]),
            "x_groq": {"id": self._x_groq(talk)},
        }

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        out: dict[str, Json] = {
            "id": talk.id,
            "object": "chat.completion.chunk",
            "created": talk.created,
            "model": talk.model,
            "system_fingerprint": "fp_sandbox00",
            "choices": choices,
        }
        if final:
            out["x_groq"] = {"id": self._x_groq(talk), "usage": self.usage(talk, talk.generated)}
        return out

    def closing(self, talk: Talk) -> Iterator[Event]:
        if talk.wants_usage:
            yield self.event({**self.chunk(talk, []), "usage": self.usage(talk, talk.generated)}, 0, "usage")
        yield DONE

    # ------------------------------------------------------------------ models
    def _row(self, name: str, site: Site) -> dict[str, Json]:
        model = self.models[name]
        return {
            "id": name,
            "object": "model",
            "created": int(site.began_wall),
            "owned_by": "Meta",
            "active": True,
            "context_window": model.context_tokens,
            "public_apps": None,
            "max_completion_tokens": model.max_output_tokens,
        }

    def list_models(self, request: Request, site: Site) -> Reply:
        return json_reply({"object": "list", "data": [self._row(name, site) for name in self.models]})

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        if name not in self.models:
            raise self.no_such_model(name)
        return json_reply(self._row(name, site))


CLOUD = Groq()
