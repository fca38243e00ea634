"""A self-hosted vLLM 0.32: uvicorn's headers, its own error objects, prefill, load headers and Prometheus metrics.

Checked against transcripts of the real server (tests/golden): field sets and their order are its own. Embeddings are as
vLLM's EmbeddingResponse declares them; a real server has one model, and then the paths of the others are not there.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from sandbox.answers import Choice, ToolCall, key_of, tokens_of
from sandbox.cloud import encode, json_reply
from sandbox.limits import Short
from sandbox.openai_shape import DONE, Route, Talk
from sandbox.prompt import count_images, prompt_tokens, turns_of
from sandbox.site import Site
from sandbox.text import TextCompletions
from sandbox.types import Event, Json, Model, Refusal, Reply, Request
from sandbox.vllm_metrics import load_header, metric_lines

_FINGERPRINT = "vllm-0.32.0-sandbox0"
_WORDS = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError", 503: "Service Unavailable"}


class Vllm(TextCompletions):
    name: ClassVar[str] = "vllm"
    order: ClassVar[int] = 1
    keep_alive_s: ClassVar[float] = 5.0
    early_head: ClassVar[bool] = True
    stream_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    length_merges_finish: ClassVar[bool] = True
    demo: ClassVar[Mapping[str, str]] = {"api_key": "sandbox-vllm"}
    models: ClassVar[Mapping[str, Model]] = {
        "meta-llama/Llama-3.1-8B-Instruct": Model(),
        "meta-llama/Llama-3.1-70B-Instruct": Model(),
        "meta-llama/Llama-3.1-405B-Instruct": Model(),
        "meta-llama/Llama-3.1-405B-Instruct-FP8": Model(),
        "meta-llama/Llama-3.3-70B-Instruct": Model(),
        "meta-llama/Llama-4-Scout-17B-16E-Instruct": Model(10_485_760, 10_485_760, vision=True),
        "BAAI/bge-m3": Model(8_192, 0, vector=1024),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-8b": {"model": "meta-llama/Llama-3.1-8B-Instruct"},
        "llama-3.1-70b": {"model": "meta-llama/Llama-3.1-70B-Instruct"},
        "llama-3.1-405b": {"model": "meta-llama/Llama-3.1-405B-Instruct"},
        "llama-3.3-70b": {"model": "meta-llama/Llama-3.3-70B-Instruct"},
    }
    pace: ClassVar[tuple[float, float]] = (0.08, 0.015)

    def account(self, origin: str) -> dict[str, Json]:
        return {**super().account(origin), "gpu_usd_per_hour": 2.40, "gpus": 2}

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            **super().routes(),
            "/v1/embeddings": {"POST": self.embed},
            "/tokenize": {"POST": self.tokenize},
            "/health": {"GET": lambda r, s: Reply()},
            "/ping": {"GET": lambda r, s: Reply(), "POST": lambda r, s: Reply()},
            "/load": {"GET": lambda r, s: json_reply({"server_load": s.running})},
            "/version": {"GET": lambda r, s: json_reply({"version": "0.32.0"})},
            "/metrics": {"GET": self.metrics},
        }

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        return None

    def authorize(self, request: Request, site: Site) -> None:
        if request.path.startswith("/v1/"):  # vLLM guards nothing else
            super().authorize(request, site)

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        out = [("server", "uvicorn"), ("vary", "Origin")]
        wanted = request.headers.get("endpoint-load-metrics-format", "").upper()
        if wanted in ("TEXT", "JSON") and request.method == "POST":
            out.append(("endpoint-load-metrics", load_header(wanted, site)))
        return out

    # ------------------------------------------------------------------ refusals
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        return Refusal(status, {"error": {"message": message, "type": type_, "param": param, "code": status}})

    def bad(self, message: str, param: str, value: Json) -> Refusal:
        return self.error(400, f"{message} (parameter={param}, value={value})", "BadRequestError", param)

    def unfit(self, kind: str, where: str, message: str, value: Json) -> Refusal:
        """A pydantic error as vLLM words it."""
        text = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{where}', 'msg': '{message}', 'input': {value!r}}}"
        return self.error(400, text, "Bad Request", where)

    def unauthorized(self, credential: str) -> Refusal:
        return Refusal(401, {"error": "Unauthorized"})

    def no_such_path(self, request: Request | None = None) -> Refusal:
        return Refusal(404, {"detail": "Not Found"})

    def no_vectors(self, model: str) -> Refusal:
        return self.no_such_path()

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return Refusal(405, {"detail": "Method Not Allowed"}, {"allow": ", ".join(methods)})

    def no_such_model(self, model: str) -> Refusal:
        message = f"The model `{model}` does not exist. Valid aliases: {', '.join(self.models)}."
        return self.error(404, message, "NotFoundError", "model")

    def limited(self, short: Short) -> Refusal:
        """vLLM never says 429: a full queue is a 503."""
        return self.error(503, "The request queue is full. Please retry later.", "Service Unavailable")

    def failure(self, status: int) -> Refusal:
        if status == 503:
            return self.limited(Short("requests", 0, 0, 1, 0.0))
        word = _WORDS.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
        return self.error(status, "EngineCore encountered an issue." if status >= 500 else "Request refused.", word)

    def error_frames(self, body: Json, done: bool | None) -> list[bytes]:
        return super().error_frames(body, done is not False)

    # ------------------------------------------------------------------ reading
    def bad_json(self, raw: bytes, why: str) -> Refusal:
        try:
            json.loads(raw)
        except json.JSONDecodeError as error:
            where = f"body.{error.pos}"
            text = (
                f"1 validation error:\n  {{'type': 'json_invalid', 'loc': '{where}', 'msg': 'JSON decode error', "
                f"'input': '<dict of 0 items>', 'ctx': {{'error': '{error.msg}'}}}}"
            )
            return self.error(400, text, "Bad Request", where)
        except UnicodeDecodeError:
            return self.error(400, "There was an error parsing the body", "Bad Request")
        return self.unfit(
            "model_attributes_type", "body", "Input should be a valid dictionary or object to extract fields from", ""
        )

    def model_of(self, body: dict[str, Json]) -> tuple[str, Model]:
        name = body.get("model") or next(iter(self.models))  # without one vLLM takes its own
        if not isinstance(name, str):
            raise self.unfit("string_type", "body.model", "Input should be a valid string", name)
        if name not in self.models:
            raise self.no_such_model(name)
        return name, self.models[name]

    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        if model.vector:
            raise self.no_such_path()
        messages = body.get("messages")
        if "messages" not in body:
            raise self.unfit("missing", "body.messages", "Field required", f"<dict of {len(body)} items>")
        if not isinstance(messages, list):
            raise self.unfit("list_type", "body.messages", "Input should be a valid list", messages)
        if not messages or not all(isinstance(m, dict) for m in messages):
            raise self.unfit("list_type", "body.messages.0", "Input should be a valid dictionary", messages)
        if count_images(messages) and not model.vision:
            name = body.get("model")
            raise self.error(400, f"{name} is not a multimodal model", "BadRequestError")
        self.check_sampling(body)
        if isinstance(body.get("tool_choice"), dict) and not body.get("tools"):
            raise self.error(400, "When using `tool_choice`, `tools` must be set.", "BadRequestError")

    def check_sampling(self, body: dict[str, Json]) -> None:
        temperature, top_p, n = body.get("temperature"), body.get("top_p"), body.get("n")
        for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
            if body.get(name) is not None and (isinstance(body[name], bool) or not isinstance(body[name], int | float)):
                raise self.unfit("float_parsing", f"body.{name}", "Input should be a valid number", body[name])
        if temperature is not None and temperature < 0:
            raise self.bad(
                f"temperature must be non-negative, got {float(temperature)}.", "temperature", float(temperature)
            )
        if top_p is not None and not 0 < top_p <= 1:
            raise self.bad(f"top_p must be in (0, 1], got {float(top_p)}.", "top_p", float(top_p))
        for name in ("n", "max_tokens", "max_completion_tokens"):
            if body.get(name) is not None and (isinstance(body[name], bool) or not isinstance(body[name], int)):
                raise self.unfit("int_type", f"body.{name}", "Input should be a valid integer", body[name])
        if n is not None and n < 1:
            raise self.bad(f"n must be at least 1, got {n}.", "n", n)
        for name in ("max_tokens", "max_completion_tokens"):
            if body.get(name) is not None and body[name] < 1:
                raise self.bad(f"max_tokens must be at least 1, got {body[name]}.", "max_tokens", body[name])
        if body.get("stream_options") and not body.get("stream"):
            raise self.error(400, "Stream options can only be defined when `stream=True`.", "BadRequestError")

    def check_room(self, prompt: int, asked: int | None, context: int) -> None:
        if asked is not None and asked > context:
            message = (
                f"max_tokens={asked} cannot be greater than max_model_len={context}. Please request fewer "
                "output tokens."
            )
            raise self.bad(message, "max_tokens", asked)
        if prompt >= context:
            message = (
                f"This model's maximum context length is {context} tokens. However, your prompt contains at least "
                f"{context + 1} "
                "input tokens, which exceeds this limit even without any output tokens. Please reduce the length "
                "of the input prompt."
            )
            raise self.bad(message, "input_tokens", context + 1)
        if prompt + (asked or 0) > context:
            message = (
                f"This model's maximum context length is {context} tokens. However, you requested {asked} output "
                "tokens and your "
                f"prompt contains at least {context - (asked or 0) + 1} input tokens, for a total of at least "
                f"{context + 1} tokens. "
                "Please reduce the length of the input prompt or the number of requested output tokens."
            )
            raise self.bad(message, "input_tokens", context - (asked or 0) + 1)

    def goes_on(self, body: dict[str, Json], messages: Sequence[Json]) -> bool:
        asked = bool(body.get("continue_final_message"))
        if asked and body.get("add_generation_prompt", True):
            message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            raise self.error(400, message, "BadRequestError")
        return asked and messages[-1].get("role") == "assistant"

    def new_id(self, request: Request, site: Site, prefix: str) -> str:
        given = request.headers.get("x-request-id")
        return prefix + given if given else super().new_id(request, site, prefix)

    # ------------------------------------------------------------------ rendering
    def usage(self, talk: Talk, generated: int) -> dict[str, Json]:
        total = talk.prompt_tokens + generated
        return {"prompt_tokens": talk.prompt_tokens, "total_tokens": total, "completion_tokens": generated}

    def _whole_usage(self, talk: Talk) -> dict[str, Json]:
        return {**self.usage(talk, talk.generated), "prompt_tokens_details": None, "completion_tokens_details": None}

    def whole(self, talk: Talk) -> dict[str, Json]:
        out = super().whole(talk)
        del out["usage"]
        return {
            **out,
            "service_tier": None,
            "system_fingerprint": _FINGERPRINT,
            "usage": self._whole_usage(talk),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def whole_choice(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        tail = {"stop_reason": choice.stop_hit, "token_ids": None, "routed_experts": None}
        return {**super().whole_choice(talk, choice), **tail}

    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        forced = isinstance(talk.body.get("tool_choice"), dict) or talk.body.get("tool_choice") == "required"
        out: dict[str, Json] = {"role": "assistant", "content": None if choice.calls and not forced else choice.text}
        out |= {"refusal": None, "annotations": None, "audio": None, "function_call": None}
        if choice.calls:
            out["tool_calls"] = self.tool_calls(choice)
        return {**out, "reasoning": None}

    def call_id(self, made: str) -> str:
        return f"chatcmpl-tool-{made}"

    def call_head(self, number: int, call: ToolCall) -> dict[str, Json]:
        return {"id": self.call_id(call.id), "type": "function", "index": number, "function": {"name": call.name}}

    def start_chunk(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        part = {
            "index": choice.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        out = self.chunk(talk, [part])
        return {**out, "prompt_token_ids": None, "prompt_text": None}

    def finish_delta(self, choice: Choice) -> dict[str, Json]:
        return {} if choice.calls else {"content": ""}

    def delta_choice(
        self, talk: Talk, choice: Choice, delta: Json, logprobs: Json, finished: bool = False
    ) -> dict[str, Json]:
        out = super().delta_choice(talk, choice, delta, logprobs, finished)
        if finished:
            out["stop_reason"] = choice.stop_hit
        return {**out, "token_ids": None}

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        out = super().chunk(talk, choices)
        if choices:
            out = self._counted(talk, out, generated)
        if final and not talk.wants_usage:
            out["system_fingerprint"] = _FINGERPRINT
        return out

    def _counted(self, talk: Talk, chunk: dict[str, Json], generated: int) -> dict[str, Json]:
        if (talk.body.get("stream_options") or {}).get("continuous_usage_stats"):
            chunk["usage"] = {**self.usage(talk, generated), "completion_tokens_details": None}
        return chunk

    def closing(self, talk: Talk) -> Iterator[Event]:
        if talk.wants_usage:
            usage = self.usage(talk, talk.generated)
            yield self.event({**self.chunk(talk, []), "usage": usage, "system_fingerprint": _FINGERPRINT}, 0, "usage")
        yield DONE

    # ------------------------------------------------------------------ /v1/completions
    def text_tail(self, talk: Talk) -> dict[str, Json]:
        out = {"service_tier": None, "system_fingerprint": _FINGERPRINT, "usage": self._whole_usage(talk)}
        return {**out, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}

    def text_choice(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        tail = {"stop_reason": choice.stop_hit, "token_ids": None, "prompt_logprobs": None, "prompt_token_ids": None}
        return {**super().text_choice(talk, choice), **tail, "routed_experts": None}

    def text_delta(self, talk: Talk, choice: Choice, place: int, offset: int, last: bool) -> dict[str, Json]:
        tail = {"stop_reason": choice.stop_hit if last else None, "prompt_token_ids": None, "token_ids": None}
        return {**super().text_delta(talk, choice, place, offset, last), **tail}

    def text_chunk(self, talk: Talk, choices: list[Json], generated: int) -> dict[str, Json]:
        out = super().text_chunk(talk, choices, generated)
        return self._counted(talk, out, generated) if choices else out

    def text_usage_chunk(self, talk: Talk) -> dict[str, Json]:
        return {**super().text_usage_chunk(talk), "system_fingerprint": _FINGERPRINT}

    # ------------------------------------------------------------------ the rest
    def embed(self, request: Request, site: Site) -> Reply:
        reply = super().embed(request, site)
        made = msgspec.json.decode(reply.body)
        made["data"] = [{"index": row["index"], **row} for row in made["data"]]
        made["usage"] |= {"completion_tokens": 0, "prompt_tokens_details": None}
        head = {"id": self.new_id(request, site, "embd-"), "object": "list", "created": int(site.wall())}
        reply.body = encode({**head, "model": reply.model, **made})
        return reply

    def tokenize(self, request: Request, site: Site) -> Reply:
        body = self.decode(request.body)
        _, model = self.model_of(body)
        turns = turns_of(body["messages"]) if "messages" in body else [("user", str(body.get("prompt", "")))]
        count = prompt_tokens(turns)
        tokens = [key_of(token) % 128_000 for _, text in turns for token in tokens_of(text)]
        tokens = [128_000] * (count - len(tokens)) + tokens
        value = {"count": count, "max_model_len": self.context_of(model, site), "tokens": tokens, "token_strs": None}
        return json_reply(value)

    def list_models(self, request: Request, site: Site) -> Reply:
        return json_reply({"object": "list", "data": [self._row(name, site) for name in self.models]})

    def _row(self, name: str, site: Site) -> dict[str, Json]:
        created = int(site.began_wall)
        allowed = {
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
        }
        permission = {
            "id": f"modelperm-{key_of(name):016x}",
            "object": "model_permission",
            "created": created,
            **allowed,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": name,
            "parent": None,
            "max_model_len": self.context_of(self.models[name], site),
            "permission": [permission],
        }

    def metrics(self, request: Request, site: Site) -> Reply:
        text = "\n".join(metric_lines(next(iter(self.models)), site)) + "\n"
        return Reply(headers=[("content-type", "text/plain; version=1.0.0; charset=utf-8")], body=text.encode())


CLOUD = Vllm()
