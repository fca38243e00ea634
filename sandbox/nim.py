"""NVIDIA NIM's wire: the hosted API in front of vLLM-like containers, with a closed list of fields and health paths.

Sources: paths and health bodies docs.nvidia.com/nim/large-language-models (2.0) and vision-language-models (1.7);
fields as litellm 1.109.1 lists them, the closed list can1357/oh-my-pi#2299, the 404 free-claude-code#956; tools in a
stream langchain-ai/langchain-nvidia#201. Embeddings: docs.nvidia.com/nim/nemo-retriever/text-embedding (2.0.0), which
also has the model's suffix in place of `input_type`; the refusals plastic-labs/honcho#779 and decolua/9router#1378.
"""

from collections.abc import Mapping
from typing import ClassVar

from sandbox.answers import Choice, key_of
from sandbox.cloud import json_reply
from sandbox.limits import Short
from sandbox.openai_shape import Route, Talk
from sandbox.prompt import count_images
from sandbox.site import Site
from sandbox.text import TextCompletions
from sandbox.types import Json, Model, Refusal, Reply, Request

_KNOWN_FIELDS = """
model messages max_tokens max_completion_tokens frequency_penalty presence_penalty response_format seed stop stream
stream_options temperature tools tool_choice top_p
"""
_KNOWN = frozenset(_KNOWN_FIELDS.split())
_KNOWN_TEXT_FIELDS = """
model prompt max_tokens frequency_penalty presence_penalty seed stop stream stream_options temperature top_p
"""
_KNOWN_EMBED_FIELDS = "model input input_type encoding_format truncate user"
_KNOWN_TEXT = frozenset(_KNOWN_TEXT_FIELDS.split())
_KNOWN_EMBED = frozenset(_KNOWN_EMBED_FIELDS.split())
_RANGES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
_TITLES = {401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found", 410: "Gone",
           429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
           504: "Gateway Timeout"}  # fmt: skip


class Nim(TextCompletions):
    name: ClassVar[str] = "nim"
    order: ClassVar[int] = 6
    early_head: ClassVar[bool] = True
    demo: ClassVar[Mapping[str, str]] = {"api_key": "nvapi-sandbox"}
    id_prefix: ClassVar[str] = "chat-"
    length_merges_finish: ClassVar[bool] = True
    models: ClassVar[Mapping[str, Model]] = {
        "meta/llama-3.1-8b-instruct": Model(131_072, 16_384),
        "meta/llama-3.1-70b-instruct": Model(131_072, 16_384),
        "meta/llama-3.1-405b-instruct": Model(131_072, 16_384),
        "meta/llama-3.3-70b-instruct": Model(131_072, 16_384),
        "meta/llama-3.2-11b-vision-instruct": Model(131_072, 16_384, vision=True),
        **{f"nvidia/nv-embedqa-e5-v5{end}": Model(512, 0, vector=1024) for end in ("-query", "-passage", "")},
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {  # no price per token is published: another host's
        "llama-3.1-8b": {"model": "meta/llama-3.1-8b-instruct", "price": {"in": 0.20, "out": 0.20}},
        "llama-3.1-70b": {"model": "meta/llama-3.1-70b-instruct", "price": {"in": 0.88, "out": 0.88}},
        "llama-3.1-405b": {"model": "meta/llama-3.1-405b-instruct", "price": {"in": 3.50, "out": 3.50}},
        "llama-3.3-70b": {"model": "meta/llama-3.3-70b-instruct", "price": {"in": 0.88, "out": 0.88}},
    }
    pace: ClassVar[tuple[float, float]] = (0.2, 0.013)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            **super().routes(),
            "/v1/embeddings": {"POST": self.embed},
            "/v1/health/ready": {"GET": lambda r, s: _health("Service is ready.")},
            "/v1/health/live": {"GET": lambda r, s: _health("Service is live.")},
        }

    def authorize(self, request: Request, site: Site) -> None:
        if not request.path.startswith("/v1/health/"):
            super().authorize(request, site)

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        number = key_of(self.name, site.next_number())
        return [("nvcf-reqid", f"{number:032x}"), ("nvcf-status", "fulfilled"), ("vary", "Origin")]

    # ------------------------------------------------------------------ refusals
    def _titled(self, status: int, detail: str) -> Refusal:
        """As NVIDIA's front door says no."""
        body = {"status": status, "title": _TITLES.get(status, "Error"), "detail": detail}
        return Refusal(status, body, {"content-type": "application/problem+json"})

    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        """As the container behind it says no."""
        return Refusal(status, {"error": {"message": message, "type": type_, "param": param, "code": status}})

    def invalid(self, message: str, param: str | None = None, code: Json = None) -> Refusal:
        return self.error(400, message, "BadRequestError", param)

    def unauthorized(self, credential: str) -> Refusal:
        return self._titled(401, "Authorization header missing" if credential == "none" else "Authentication failed")

    def no_such_path(self, request: Request) -> Refusal:
        return Refusal(404, "404 page not found")

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return Refusal(405, {"detail": "Method Not Allowed"}, {"allow": ", ".join(methods)})

    def no_such_model(self, model: str) -> Refusal:
        return self._titled(404, f"Function '{key_of(model):032x}': Not found for account 'sandbox'")

    def limited(self, short: Short) -> Refusal:
        return self._titled(429, "Too Many Requests")

    def failure(self, status: int) -> Refusal:
        if status in _TITLES:
            return self._titled(status, _TITLES[status])
        return self.error(status, "Inference error.", "InternalServerError" if status >= 500 else "BadRequestError")

    # ------------------------------------------------------------------ reading
    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        if model.vector:
            raise self.no_such_model(str(body["model"]))
        self._check_known(body, _KNOWN)
        if body.get("tools") and body.get("stream"):
            raise self.invalid("Tool calling is not supported in streaming mode!")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise self.invalid("Input should be a valid list of messages", "messages")
        if count_images(messages) and not model.vision:
            raise self.invalid(f"{body.get('model')} is not a multimodal model")
        self._check_numbers(body)

    def check_sampling(self, body: dict[str, Json]) -> None:
        self._check_known(body, _KNOWN_TEXT)
        self._check_numbers(body)

    def embed(self, request: Request, site: Site) -> Reply:
        body = self.decode(request.body)
        name, model = self.model_of(body)
        self._check_known(body, _KNOWN_EMBED)
        told = name.endswith(("-query", "-passage")) or body.get("input_type") in ("query", "passage")
        if model.vector and not told:
            raise Refusal(400, {"detail": "'input_type' parameter is required for asymmetric models"})
        return super().embed(request, site)

    def no_vectors(self, model: str) -> Refusal:
        return self.no_such_model(model)

    def _check_known(self, body: dict[str, Json], known: frozenset[str]) -> None:
        unknown = [name for name in body if name not in known]
        if unknown:
            raise self.invalid(f"Validation: Unsupported parameter(s): {', '.join(f'`{name}`' for name in unknown)}")

    def _check_numbers(self, body: dict[str, Json]) -> None:
        for name, (low, high) in _RANGES.items():
            value = body.get(name)
            if value is not None and (not isinstance(value, int | float) or not low <= value <= high):
                raise self.invalid(f"{name} must be between {low} and {high}", name)
        asked = self.asked_tokens(body)
        if asked is not None and (not isinstance(asked, int) or asked < 1):
            raise self.invalid("max_tokens must be at least 1", "max_tokens")
        if body.get("stream_options") and not body.get("stream"):
            raise self.invalid("Stream options can only be defined when `stream=True`.")

    # ------------------------------------------------------------------ rendering
    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        made = super().message(talk, choice)
        return {"tool_calls": [], **made}

    def call_id(self, made: str) -> str:
        return f"chatcmpl-tool-{made}"

    def list_models(self, request: Request, site: Site) -> Reply:
        return json_reply({"object": "list", "data": [self._row(name, site) for name in self.models]})

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        if name not in self.models:
            raise self.no_such_model(name)
        return json_reply(self._row(name, site))

    def _row(self, name: str, site: Site) -> dict[str, Json]:
        created, owner = int(site.began_wall), name.split("/")[0]
        return {"id": name, "object": "model", "created": created, "owned_by": owner, "root": name, "parent": None}


def _health(message: str) -> Reply:
    return json_reply({"object": "health.response", "message": message})


CLOUD = Nim()
