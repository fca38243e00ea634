"""Azure AI Foundry's wire in its four forms, with the refusals of its Llama: extra parameters, tools, JSON mode.

| form | path | what differs |
| models | /models/chat/completions?api-version=… | `extra-parameters` header; usage in the finish chunk |
| serverless | /chat/completions?api-version=… and /v1/chat/completions | the same; the key only as a bearer |
| deployments | /openai/deployments/{name}/chat/completions?api-version=… | OpenAI's own refusals |
| openai_v1 | /openai/v1/chat/completions | the same, no api-version |

An Entra token is had from /{tenant}/oauth2/v2.0/token; serverless endpoints do not take one.

Sources: MicrosoftDocs/azure-ai-docs; BerriAI/litellm#9800 and langchain#29679 (extra parameters); big-AGI#608,
LibreChat#4767, litellm#16568 (401s). Where a page and practice differ the stricter one is here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

import msgspec

from sandbox.answers import Choice, key_of
from sandbox.cloud import json_reply
from sandbox.http1 import segments
from sandbox.limits import Short
from sandbox.oauth import entra_token, is_issued
from sandbox.openai_shape import DONE, OpenAIShape, Route, Talk
from sandbox.prompt import count_images
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Reply, Request

_REFERENCE_FIELDS = """
model messages frequency_penalty presence_penalty max_tokens response_format seed stop stream temperature top_p
tools tool_choice
"""
_REFERENCE = frozenset(_REFERENCE_FIELDS.split())
_OPENAI_FIELDS = "logit_bias logprobs top_logprobs n user stream_options parallel_tool_calls max_completion_tokens"
_OPENAI = _REFERENCE | frozenset(_OPENAI_FIELDS.split())
_VERSION = re.compile(r"20\d\d-\d\d-\d\d(-preview)?")
_WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
    "active subscription and use a correct regional API endpoint for your resource."
)
_UNSIGNED = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), "
    "or have expired."
)


def _form(path: str) -> str:
    """Which of the four forms a path is of."""
    if path.startswith("/openai/deployments/"):
        return "deployments"
    if path.startswith("/openai/v1/"):
        return "openai_v1"
    return "models" if path.startswith("/models/") else "serverless"


class Azure(OpenAIShape):
    name: ClassVar[str] = "azure"
    order: ClassVar[int] = 3
    base_path: ClassVar[str] = ""
    demo: ClassVar[Mapping[str, str]] = {"api_key": "sandbox-azure"}
    models: ClassVar[Mapping[str, Model]] = {
        "Meta-Llama-3.1-8B-Instruct": Model(131_072, 8_192, calls=False),
        "Meta-Llama-3.1-70B-Instruct": Model(131_072, 8_192, calls=False),
        "Meta-Llama-3.1-405B-Instruct": Model(131_072, 8_192, calls=False),
        "Llama-3.3-70B-Instruct": Model(128_000, 8_192, calls=False),
        "Llama-4-Scout-17B-16E-Instruct": Model(128_000, 8_192, vision=True, calls=False),
        "text-embedding-3-small": Model(8_192, 0, vector=1536),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-8b": {"model": "Meta-Llama-3.1-8B-Instruct", "price": {"in": 0.30, "out": 0.61}},
        "llama-3.1-70b": {"model": "Meta-Llama-3.1-70B-Instruct", "price": {"in": 2.68, "out": 3.54}},
        "llama-3.1-405b": {"model": "Meta-Llama-3.1-405B-Instruct", "price": {"in": 5.33, "out": 16.0}},
        "llama-3.3-70b": {"model": "Llama-3.3-70B-Instruct", "price": {"in": 0.71, "out": 0.71}},
    }
    pace: ClassVar[tuple[float, float]] = (0.35, 0.02)

    def openai_url(self, origin: str) -> str:
        return origin + "/openai/v1"

    # ------------------------------------------------------------------ routing
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return _ROUTES

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        parts = segments(request.path)
        if len(parts) >= 4 and parts[:2] == ["openai", "deployments"]:
            return {"chat/completions": {"POST": self.chat}, "embeddings": {"POST": self.embed}}.get(
                "/".join(parts[3:])
            )
        if len(parts) == 4 and parts[:3] == ["openai", "v1", "models"]:
            return {"GET": lambda r, s: self.one_model(r, s, parts[3])}
        if len(parts) == 4 and parts[1:] == ["oauth2", "v2.0", "token"]:  # login.microsoftonline.com/{tenant}/…
            return {"POST": entra_token}
        return None

    def authorize(self, request: Request, site: Site) -> None:
        if request.path.endswith("/oauth2/v2.0/token"):
            return
        form = _form(request.path)
        credential = self.credential(request, site)
        if credential != "ok":
            raise self._unauthorized(request, form, credential)
        if form != "openai_v1" and not (form == "serverless" and request.path.startswith("/v1/")):
            self._check_version(request, form)

    def credential(self, request: Request, site: Site) -> str:
        said = request.headers.get("authorization")
        key = request.headers.get("api-key")
        if _form(request.path) == "serverless":
            key = None  # serverless endpoints look at Authorization only
        if key is None and said is None:
            return "none"
        if key is not None:
            return "ok" if key == self.demo["api_key"] else "bad"
        token = (said or "").removeprefix("Bearer ")
        good = token == self.demo["api_key"] or (is_issued(site, token) and _form(request.path) != "serverless")
        return "ok" if said != token and good else "bad"

    def _unauthorized(self, request: Request, form: str, credential: str) -> Refusal:
        if form == "serverless":
            return Refusal(401, {"status": "Auth token must be passed as a header called Authorization"})
        if "api-key" in request.headers:
            return self.error(401, _WRONG_KEY, "401")
        return Refusal(401, {"statusCode": 401, "message": _UNSIGNED})

    def _check_version(self, request: Request, form: str) -> None:
        version = request.query.get("api-version")
        if version is None and form == "deployments":
            raise self.error(404, "Resource not found", "404")
        if version is None:
            raise self.error(400, "api-version is a required query parameter.", "BadRequest")
        if not _VERSION.fullmatch(version):
            raise self.error(400, "API version not supported", "BadRequest")

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        number = key_of(self.name, site.next_number())
        out = [("apim-request-id", f"{number:032x}"), ("x-ms-region", "Sandbox"), ("x-ms-rai-invoked", "false")]
        given = request.headers.get("x-ms-client-request-id")
        if given:
            out.append(("x-ms-client-request-id", given))
        if request.method == "POST" and self.credential(request, site) == "ok":
            now = site.now()
            out.append(("x-ratelimit-remaining-requests", str(site.limiter.requests.room(now).remaining)))
            out.append(("x-ratelimit-remaining-tokens", str(site.limiter.tokens.room(now).remaining)))
        return out

    # ------------------------------------------------------------------ refusals
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        error: dict[str, Json] = {"code": code or type_, "message": message}
        if param is not None:
            error["param"] = param
        return Refusal(status, {"error": error}, {"x-ms-error-code": str(code or type_)})

    def unauthorized(self, credential: str) -> Refusal:
        return Refusal(401, {"statusCode": 401, "message": _UNSIGNED})

    def no_such_path(self, request: Request) -> Refusal:
        return self.error(404, "Resource not found", "404")

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return self.error(405, "Method Not Allowed", "405")

    def no_such_model(self, model: str) -> Refusal:
        said = f"Unknown model: {model}"
        body = {"error": {"code": "unknown_model", "message": said, "details": said}}
        return Refusal(404, body, {"x-ms-error-code": "unknown_model"})

    def _no_deployment(self) -> Refusal:
        message = (
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 "
            "minutes, please wait a moment and try again."
        )
        return self.error(404, message, "DeploymentNotFound")

    def _unsupported(self, name: str, value: Json) -> Refusal:
        """The 422 of a field that the API has and this model has not."""
        message = f"One of the parameters contain invalid values: {name} is not supported by the model."
        body = {"status": 422, "code": "parameter_not_supported", "detail": {"loc": ["body", name], "input": value}}
        return Refusal(422, {**body, "message": message}, {"x-ms-error-code": "parameter_not_supported"})

    def limited(self, short: Short) -> Refusal:
        wait_s = max(1, -int(-short.wait_s // 1))
        message = (
            f"Requests to the ChatCompletions_Create Operation have exceeded the {short.what} rate limit of your "
            "current "
            f"pricing tier. Please retry after {wait_s} seconds."
        )
        refusal = self.error(429, message, "429")
        refusal.headers |= {"retry-after": str(wait_s), "retry-after-ms": str(int(short.wait_s * 1000) + 1)}
        return refusal

    def failure(self, status: int) -> Refusal:
        if status == 429:
            return self.limited(Short("tokens", 200_000, 199_000, 2_000, 7.0))
        message = "The server had an error while processing your request." if status >= 500 else "Request refused."
        return self.error(status, message, str(status))

    # ------------------------------------------------------------------ reading
    def model_of(self, body: dict[str, Json]) -> tuple[str, Model]:
        if "model" not in body:  # a serverless endpoint serves one model
            body["model"] = next(iter(self.models))
        return super().model_of(body)

    def chat(self, request: Request, site: Site) -> Reply:
        form = _form(request.path)
        body = self._named(request, form, self.decode(request.body))
        body = self._without_extras(request, body) if form in ("models", "serverless") else self._known_only(body)
        return super().chat(msgspec.structs.replace(request, body=msgspec.json.encode(body)), site)

    def embed(self, request: Request, site: Site) -> Reply:
        body = self._named(request, _form(request.path), self.decode(request.body))
        return super().embed(msgspec.structs.replace(request, body=msgspec.json.encode(body)), site)

    def _named(self, request: Request, form: str, body: dict[str, Json]) -> dict[str, Json]:
        """The body with the model that path or header names; an unknown deployment is refused in its own words."""
        if form == "deployments":
            body = {**body, "model": segments(request.path)[2]}
        elif "azureml-model-deployment" in request.headers:
            body = {**body, "model": request.headers["azureml-model-deployment"]}
        if form in ("deployments", "openai_v1") and body.get("model") not in self.models:
            raise self._no_deployment()
        return body

    def _without_extras(self, request: Request, body: dict[str, Json]) -> dict[str, Json]:
        extras = [name for name in body if name not in _REFERENCE]
        said = request.headers.get("extra-parameters", "error")
        if not extras or said == "pass-through":
            return body
        if said == "drop":
            return {name: value for name, value in body.items() if name in _REFERENCE}
        detail = (
            f"Extra parameters {extras} are not allowed when extra-parameters is not set or set to be 'error'. "
            "Set extra-parameters to 'pass-through' to pass to the model."
        )
        error = {"code": "Bad Request", "message": msgspec.json.encode({"detail": detail}).decode(), "status": 400}
        raise Refusal(400, {"error": error}, {"x-ms-error-code": "Bad Request"})

    def _known_only(self, body: dict[str, Json]) -> dict[str, Json]:
        unknown = [name for name in body if name not in _OPENAI]
        if unknown:
            error = {
                "message": f"Unrecognized request argument supplied: {unknown[0]}",
                "type": "invalid_request_error",
            }
            raise Refusal(400, {"error": {**error, "param": None, "code": None}})
        return body

    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise self.error(400, "Invalid input: messages must be a non-empty list", "invalid_input", "messages")
        if model.vector:
            raise self.error(
                400, "The chatCompletion operation does not work with the specified model.", "OperationNotSupported"
            )
        for name in ("tools", "tool_choice"):
            if body.get(name) and not model.calls:
                raise self._unsupported(name, body[name])
        form = body.get("response_format") or {}
        if isinstance(form, dict) and form.get("type", "text") != "text":
            raise self._unsupported("response_format", form.get("type"))
        if count_images(messages) and not model.vision:
            raise self._unsupported("messages", "image_url")
        self._check_numbers(body, model)

    def _check_numbers(self, body: dict[str, Json], model: Model) -> None:
        asked = self.asked_tokens(body)
        if asked is not None and (not isinstance(asked, int) or asked < 1):
            raise self._invalid_value("max_tokens", asked)
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("n", 1, 128)):
            value = body.get(name)
            if value is not None and (not isinstance(value, int | float) or not low <= value <= high):
                raise self._invalid_value(name, value)
        if asked is not None and asked > model.max_output_tokens:
            raise self._invalid_value("max_tokens", asked)

    def _invalid_value(self, name: str, value: Json) -> Refusal:
        body = {"status": 422, "code": "invalid_parameter", "detail": {"loc": ["body", name], "input": value}}
        message = f"One of the parameters contain invalid values: {name}."
        return Refusal(422, {**body, "message": message}, {"x-ms-error-code": "invalid_parameter"})

    # ------------------------------------------------------------------ rendering
    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        out = super().chunk(talk, choices)
        if final and _form(talk.request.path) in ("models", "serverless"):
            out["usage"] = self.usage(talk, talk.generated)
        return out

    def logprobs(self, talk: Talk, pieces: Json, place: int) -> Json:
        """Passed through to the Llama server `logprobs` is a number there; both forms ask for the same."""
        wanted = talk.body.get("logprobs")
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            talk.body["top_logprobs"] = wanted
        return super().logprobs(talk, pieces, place)

    def closing(self, talk: Talk) -> Iterator[Event]:
        if talk.wants_usage and _form(talk.request.path) in ("deployments", "openai_v1"):
            yield self.event({**self.chunk(talk, []), "usage": self.usage(talk, talk.generated)}, 0, "usage")
        yield DONE

    # ------------------------------------------------------------------ what is served
    def info(self, request: Request, site: Site) -> Reply:
        name = "Meta-Llama-3.1-8B-Instruct"
        return json_reply({"model_name": name, "model_type": "chat-completion", "model_provider_name": "Meta"})

    def _row(self, name: str, site: Site) -> dict[str, Json]:
        return {"id": name, "object": "model", "created": int(site.began_wall), "owned_by": "system"}

    def list_models(self, request: Request, site: Site) -> Reply:
        return json_reply({"object": "list", "data": [self._row(name, site) for name in self.models]})

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        if name not in self.models:
            raise self._no_deployment()
        return json_reply(self._row(name, site))

    def message(self, talk: Talk, choice: Choice) -> dict[str, Json]:
        return {**super().message(talk, choice), "tool_calls": []}


CLOUD = Azure()
_ROUTES: Mapping[str, Mapping[str, Route]] = {
    **{path: {"POST": CLOUD.chat} for path in (
        "/models/chat/completions", "/chat/completions", "/v1/chat/completions", "/openai/v1/chat/completions")},
    **{path: {"POST": CLOUD.embed} for path in ("/models/embeddings", "/embeddings", "/openai/v1/embeddings")},
    "/models/info": {"GET": CLOUD.info},
    "/info": {"GET": CLOUD.info},
    "/openai/v1/models": {"GET": CLOUD.list_models},
}  # fmt: skip
