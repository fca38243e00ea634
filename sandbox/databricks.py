"""Databricks model serving: /serving-endpoints, its own error object, fields that are not in its list refused as text.

Sources: the fields as litellm 1.109.1 lists them; `json: unknown field` continuedev/continue#12936 (stream_options),
databricks-sdk-py#1263; INVALID_PARAMETER_VALUE anomalyco/opencode#4698; RESOURCE_DOES_NOT_EXIST dbdemos#220; usage in
every chunk spiceai#6600. Some models of Databricks take stream_options (aaif-goose/goose#7959); this one does not.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

from sandbox.answers import Choice, key_of
from sandbox.cloud import encode
from sandbox.http1 import segments
from sandbox.limits import Short
from sandbox.oauth import databricks_token, is_issued
from sandbox.openai_shape import DONE, OpenAIShape, Route, Talk
from sandbox.prompt import count_images
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Reply, Request

_KNOWN_FIELDS = """
model messages max_tokens n response_format stop stream temperature tools tool_choice top_p top_k
"""
_KNOWN = frozenset(_KNOWN_FIELDS.split())
_WORDS = {
    400: "BAD_REQUEST", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "RESOURCE_DOES_NOT_EXIST",
    429: "REQUEST_LIMIT_EXCEEDED", 500: "INTERNAL_ERROR", 503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class Databricks(OpenAIShape):
    name: ClassVar[str] = "databricks"
    order: ClassVar[int] = 5
    base_path: ClassVar[str] = "/serving-endpoints"
    demo: ClassVar[Mapping[str, str]] = {"api_key": "dapi-sandbox"}
    models: ClassVar[Mapping[str, Model]] = {
        "databricks-meta-llama-3-1-8b-instruct": Model(128_000, 8_192),
        "databricks-meta-llama-3-1-70b-instruct": Model(128_000, 8_192),
        "databricks-meta-llama-3-1-405b-instruct": Model(128_000, 4_096),
        "databricks-meta-llama-3-3-70b-instruct": Model(128_000, 8_192),
        "databricks-llama-4-maverick": Model(128_000, 8_192, vision=True),
        "databricks-gte-large-en": Model(8_192, 0, vector=1024),
        "databricks-bge-large-en": Model(512, 0, vector=1024),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-8b": {"model": "databricks-meta-llama-3-1-8b-instruct", "price": {"in": 0.15, "out": 0.45}},
        "llama-3.1-70b": {"model": "databricks-meta-llama-3-1-70b-instruct", "price": {"in": 1.0, "out": 3.0}},
        "llama-3.1-405b": {"model": "databricks-meta-llama-3-1-405b-instruct", "price": {"in": 5.0, "out": 15.0}},
        "llama-3.3-70b": {"model": "databricks-meta-llama-3-3-70b-instruct", "price": {"in": 0.5, "out": 1.5}},
    }
    pace: ClassVar[tuple[float, float]] = (0.25, 0.014)

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        base = self.base_path
        oidc: Mapping[str, Mapping[str, Route]] = {"/oidc/v1/token": {"POST": databricks_token}}
        return {**oidc, base + "/chat/completions": {"POST": self.chat}, base + "/embeddings": {"POST": self.embed}}

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        parts = segments(request.path)
        if len(parts) == 3 and parts[0] == "serving-endpoints" and parts[2] == "invocations":
            return {"POST": lambda r, s: self._invoke(r, s, parts[1])}
        return None

    def _invoke(self, request: Request, site: Site, name: str) -> Reply:
        """The native form: the endpoint's name is in the path."""
        body = {**self.decode(request.body), "model": name}
        named = msgspec.structs.replace(request, body=encode(body))
        model = self.models.get(name)
        return self.embed(named, site) if model is not None and model.vector else self.chat(named, site)

    def authorize(self, request: Request, site: Site) -> None:
        if not request.path.startswith("/oidc/"):
            super().authorize(request, site)

    def credential(self, request: Request, site: Site) -> str:
        said = request.headers.get("authorization", "")
        return "ok" if is_issued(site, said.removeprefix("Bearer ")) else super().credential(request, site)

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        return [
            ("server", "databricks"),
            ("x-request-id", f"{key_of(self.name, site.next_number()):032x}"),
            ("x-content-type-options", "nosniff"),
            ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ]

    # ------------------------------------------------------------------ refusals
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        word = code if isinstance(code, str) else _WORDS.get(status, "INTERNAL_ERROR")
        return Refusal(status, {"error_code": word, "message": f"{word}: {message}" if status < 500 else message})

    def parameter(self, message: str) -> Refusal:
        return self.error(400, message, "", code="INVALID_PARAMETER_VALUE")

    def bad_json(self, raw: bytes, why: str) -> Refusal:
        return Refusal(400, f"Bad request: {why}\n")

    def unauthorized(self, credential: str) -> Refusal:
        if credential == "none":
            message = "Credential was not sent or was of an unsupported type for this API."
            return Refusal(401, {"error_code": "UNAUTHENTICATED", "message": message})
        return Refusal(403, {"error_code": "403", "message": "Invalid access token."})

    def no_such_path(self, request: Request) -> Refusal:
        message = f"No API found for '{request.method} {request.path}'"
        return Refusal(404, {"error_code": "ENDPOINT_NOT_FOUND", "message": message})

    def no_such_model(self, model: str) -> Refusal:
        message = f"Endpoint with name '{model}' does not exist."
        detail = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "request_id": "sandbox", "serving_data": ""}
        return Refusal(404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message, "details": [detail]})

    def no_vectors(self, model: str) -> Refusal:
        return self.parameter("Missing required Chat parameter: 'messages'")

    def limited(self, short: Short) -> Refusal:
        what = "input tokens per minute" if short.what == "tokens" else "queries per second"
        return self.error(429, f"Exceeded workspace {what} rate limit for the endpoint. Please retry later.", "")

    def failure(self, status: int) -> Refusal:
        if status == 429:
            return self.limited(Short("tokens", 200_000, 199_000, 2_000, 10.0))
        return self.error(status, "The server received an error." if status >= 500 else "Request refused.", "")

    # ------------------------------------------------------------------ reading
    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        unknown = [name for name in body if name not in _KNOWN]
        if unknown:
            raise Refusal(400, f'Bad request: json: unknown field "{unknown[0]}"\n')
        messages = body.get("messages")
        if messages is None:
            raise self.parameter("Missing required Chat parameter: 'messages'")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise self.parameter("messages must be a non-empty list")
        if model.vector or (count_images(messages) and not model.vision):
            raise self.parameter("The endpoint does not take this input.")
        for tool in body.get("tools") or ():
            if "parameters" not in (tool.get("function") or {}):
                said = '"parameters" is a required property for "function" object in parameter "tools"'
                raise Refusal(400, f"Bad request: {said}\n")
        self._check_numbers(body, model)

    def _check_numbers(self, body: dict[str, Json], model: Model) -> None:
        asked = body.get("max_tokens")
        if asked is not None and (not isinstance(asked, int) or not 1 <= asked <= model.max_output_tokens):
            raise self.parameter(f"max_tokens must be between 1 and {model.max_output_tokens}.")
        temperature, n = body.get("temperature"), body.get("n")
        if temperature is not None and not 0 <= temperature <= 2:
            raise self.parameter("temperature must be between 0 and 2.")
        if n is not None and (not isinstance(n, int) or n < 1):
            raise self.parameter("n must be at least 1.")

    def check_room(self, prompt: int, asked: int | None, context: int) -> None:
        if prompt + (asked or 0) > context:
            raise self.error(400, f"Input of {prompt} tokens exceeds the maximum of {context} tokens.", "")

    # ------------------------------------------------------------------ rendering
    def events(self, talk: Talk) -> Iterator[Event]:
        """No opening event: every delta has its role."""
        return (event for event in super().events(talk) if event.kind != "start")

    def delta_choice(
        self, talk: Talk, choice: Choice, delta: Json, logprobs: Json, finished: bool = False
    ) -> dict[str, Json]:
        return super().delta_choice(talk, choice, {"role": "assistant", **delta}, logprobs, finished)

    def finish_delta(self, choice: Choice) -> dict[str, Json]:
        return {"content": ""}

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        """Every chunk tells the usage so far; only the last one's figures are whole."""
        usage = self.usage(talk, talk.generated) if final else self.usage(talk, generated)
        return {**super().chunk(talk, choices), "usage": usage}

    def closing(self, talk: Talk) -> Iterator[Event]:
        yield DONE


CLOUD = Databricks()
