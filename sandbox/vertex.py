"""Google Vertex AI's wire for Llama as a service: the project in the path, OAuth tokens, errors in a list of one.

Sources: the URL and auth as litellm 1.109.1 and google-auth 2.62 make them; error bodies ogx-ai/ogx#4219 (404),
langchain-google#593 (400); that Llama 4 says nothing where no output limit is named vercel/ai#20375; that Maverick
calls tools vercel/ai#15687. What the serving side does with `n` and `logprobs` of a Llama, and with tools of an older
one, is not established: here it ignores them, as it does every field that it does not know.
"""

import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from sandbox.answers import Ask, Choice, key_of
from sandbox.demo_key import KEY_ID, PRIVATE_PEM
from sandbox.limits import Short
from sandbox.oauth import SERVICE_ACCOUNT, google_token, is_issued
from sandbox.openai_shape import OpenAIShape, Route, Talk
from sandbox.prompt import count_images
from sandbox.site import Site
from sandbox.types import Event, Json, Model, Refusal, Request

_PATH = re.compile(
    r"/v1(?:beta1)?/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)/endpoints/openapi/chat/completions"
)
_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
_IGNORED = ("n", "logprobs", "top_logprobs")
PROJECT = "sandbox-project"
LOCATION = "us-central1"


class Vertex(OpenAIShape):
    name: ClassVar[str] = "vertex"
    order: ClassVar[int] = 4
    base_path: ClassVar[str] = ""
    demo: ClassVar[Mapping[str, str]] = {"token": "ya29.sandbox", "project": PROJECT, "location": LOCATION}
    id_prefix: ClassVar[str] = ""
    known_by: ClassVar[str] = "token"
    models: ClassVar[Mapping[str, Model]] = {
        "meta/llama-3.1-8b-instruct-maas": Model(128_000, 2_048, calls=False),
        "meta/llama-3.1-70b-instruct-maas": Model(128_000, 2_048, calls=False),
        "meta/llama-3.1-405b-instruct-maas": Model(128_000, 2_048, calls=False),
        "meta/llama-3.3-70b-instruct-maas": Model(128_000, 8_192, calls=False),
        "meta/llama-4-maverick-17b-128e-instruct-maas": Model(1_000_000, 8_192, vision=True),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {  # Google published no price of the two smaller 3.1
        "llama-3.1-8b": {"model": "meta/llama-3.1-8b-instruct-maas", "price": {"in": 0.22, "out": 0.22}},
        "llama-3.1-70b": {"model": "meta/llama-3.1-70b-instruct-maas", "price": {"in": 0.72, "out": 0.72}},
        "llama-3.1-405b": {"model": "meta/llama-3.1-405b-instruct-maas", "price": {"in": 5.0, "out": 16.0}},
        "llama-3.3-70b": {"model": "meta/llama-3.3-70b-instruct-maas", "price": {"in": 0.72, "out": 0.72}},
    }
    pace: ClassVar[tuple[float, float]] = (0.3, 0.011)

    def openai_url(self, origin: str) -> str:
        return f"{origin}/v1/projects/{PROJECT}/locations/{LOCATION}/endpoints/openapi"

    # ------------------------------------------------------------------ routing
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {"/token": {"POST": google_token}}

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        return {"POST": self.chat} if _PATH.fullmatch(request.path) else None

    def service_account(self, origin: str) -> dict[str, str]:
        """The demo service account, as the JSON file that Google gives; its tokens come from this box."""
        return {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": KEY_ID,
            "private_key": PRIVATE_PEM,
            "client_email": SERVICE_ACCOUNT,
            "client_id": "100000000000000000000",
            "token_uri": origin + "/token",
        }

    def credential(self, request: Request, site: Site) -> str:
        said = request.headers.get("authorization")
        if said is None:
            return "none"
        token = said.removeprefix("Bearer ")
        return "ok" if said != token and (token == self.demo["token"] or is_issued(site, token)) else "bad"

    def authorize(self, request: Request, site: Site) -> None:
        if request.path == "/token":
            return
        super().authorize(request, site)
        found = _PATH.fullmatch(request.path)
        if found and found["project"] != PROJECT:
            raise self._google(403, f"Permission denied on resource project {found['project']}.")

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        return [
            ("vary", "Origin, X-Origin, Referer"),
            ("server", "scaffolding on HTTPServer2"),
            ("x-xss-protection", "0"),
            ("x-frame-options", "SAMEORIGIN"),
            ("x-content-type-options", "nosniff"),
        ]

    # ------------------------------------------------------------------ refusals
    def _google(self, status: int, message: str, word: str | None = None) -> Refusal:
        error = {"code": status, "message": message, "status": word or _STATUS.get(status, "UNKNOWN")}
        return Refusal(status, [{"error": error}], {"content-type": "application/json; charset=UTF-8"})

    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        return self._google(status, message)

    def unauthorized(self, credential: str) -> Refusal:
        refusal = self._google(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
        )
        refusal.headers["www-authenticate"] = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
        return refusal

    def no_such_path(self, request: Request) -> Refusal:
        page = f"<!DOCTYPE html><html lang=en><title>Error 404 (Not Found)!!1</title><p>{len(request.path)}</html>"
        return Refusal(404, page, {"content-type": "text/html; charset=UTF-8"})

    def no_such_model(self, model: str) -> Refusal:
        publisher, _, name = model.partition("/")
        place = f"projects/{PROJECT}/locations/{LOCATION}/publishers/{publisher}/models/{name}"
        return self._google(404, f"Publisher Model `{place}` not found.")

    def limited(self, short: Short) -> Refusal:
        page = "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429"
        message = f"Resource exhausted. Please try again later. Please refer to {page} for more details."
        return self._google(429, message)

    def failure(self, status: int) -> Refusal:
        if status == 429:
            return self.limited(Short("requests", 60, 60, 1, 30.0))
        return self._google(status, "Internal error encountered." if status >= 500 else "Request refused.")

    # ------------------------------------------------------------------ reading
    def model_of(self, body: dict[str, Json]) -> tuple[str, Model]:
        name, model = super().model_of(body)
        for ignored in _IGNORED if model.calls else (*_IGNORED, "tools", "tool_choice"):
            body.pop(ignored, None)
        return name, model

    def ask_of(self, body: dict[str, Json], site: Site, length: int | None) -> Ask:
        mute = "llama-4" in body["model"] and self.asked_tokens(body) is None
        return super().ask_of(body, site, 0 if mute else length)

    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise self._google(400, "Request contains an invalid argument: messages must not be empty.")
        if count_images(messages) and not model.vision:
            raise self._google(400, "The model does not support image input.")
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1)):
            value = body.get(name)
            if value is not None and (not isinstance(value, int | float) or not low <= value <= high):
                raise self._google(400, f"Unable to submit request because {name} must be between {low} and {high}.")
        asked = self.asked_tokens(body)
        if asked is not None and (not isinstance(asked, int) or asked < 1):
            raise self._google(400, "Unable to submit request because max_tokens must be positive.")

    # ------------------------------------------------------------------ rendering
    def new_id(self, request: Request, site: Site, prefix: str) -> str:
        return f"{site.began_wall:.0f}|{key_of(self.name, site.next_number()):x}"

    def whole(self, talk: Talk) -> dict[str, Json]:
        return {**super().whole(talk), "system_fingerprint": ""}

    def events(self, talk: Talk) -> Iterator[Event]:
        """No opening event: the first delta has text and no role."""
        return (event for event in super().events(talk) if event.kind != "start")

    def finish_delta(self, choice: Choice) -> dict[str, Json]:
        return {"content": ""}

    def chunk(self, talk: Talk, choices: list[Json], generated: int = 0, final: bool = False) -> dict[str, Json]:
        return {**super().chunk(talk, choices), "system_fingerprint": ""}


CLOUD = Vertex()
