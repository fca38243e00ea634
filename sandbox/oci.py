"""Oracle's Generative AI: signed GENERIC chat, its OpenAI-compatible path with a key, and the places that give tokens.

| path | who asks |
| POST /20231130/actions/chat | signed: an API key, or a session token |
| POST /openai/v1/chat/completions, GET /openai/v1/models | a bearer key of the service |
| GET /opc/v2/…, POST /v1/x509, POST /resourcePrincipalSessionTokens | an instance, or a pod on OKE |

Sources: oci 2.189.0; captures of streams in BerriAI/litellm#39507 and #40040, oracle/langchain-oracle#316 (usage after
the finish event); oracle/ai-optimizer#263 (a retired model). Words of errors that are in none of these are made up.
"""

from collections.abc import Mapping
from email.utils import formatdate
from typing import ClassVar

from sandbox import _oci_demo as demo
from sandbox._oci_faults import GenericReply, spoil
from sandbox._oci_generic import events, openai_body, whole
from sandbox._oci_input import check, check_limits, invalid
from sandbox._oci_signature import BadSignature, PublicKey, verify
from sandbox._oci_tokens import (
    FEDERATION,
    METADATA,
    RESOURCE_SESSION,
    RESOURCE_TOKEN,
    WORKLOAD,
    exchange,
    federate,
    key_of_token,
    metadata,
    not_authenticated,
    resource_session,
    resource_token,
)
from sandbox.answers import answer as answers
from sandbox.answers import key_of
from sandbox.behaviour import Fault
from sandbox.cloud import json_reply
from sandbox.limits import Short
from sandbox.openai_shape import OpenAIShape, Route, Talk
from sandbox.prompt import count_images, prompt_tokens, turns_of
from sandbox.site import Site
from sandbox.types import Json, Model, Refusal, Reply, Request

CHAT = "/20231130/actions/chat"
TINY_TOKENS = 20
"""What an answer has when maxTokens is not said."""
RETIRED = {"meta.llama-3-70b-instruct": "1.0.0"}
_ENDPOINTS = {demo.ENDPOINT: "meta.llama-3.3-70b-instruct"}
_NOT_FOUND = "Authorization failed or requested resource not found."
_OPENAI_FIELDS = """
    model messages stream stream_options max_tokens max_completion_tokens temperature top_p n stop seed
    frequency_penalty presence_penalty logit_bias logprobs top_logprobs tools tool_choice parallel_tool_calls
    response_format user metadata service_tier store reasoning_effort verbosity
"""
_OPENAI = frozenset(_OPENAI_FIELDS.split())


class OCI(OpenAIShape):
    name: ClassVar[str] = "oci"
    order: ClassVar[int] = 9
    base_path: ClassVar[str] = "/openai/v1"
    demo: ClassVar[Mapping[str, str]] = {"api_key": demo.API_KEY}
    known_by: ClassVar[str] = "user"
    models: ClassVar[Mapping[str, Model]] = {
        "meta.llama-3.1-70b-instruct": Model(128_000, 4_000),
        "meta.llama-3.1-405b-instruct": Model(128_000, 4_000),
        "meta.llama-3.3-70b-instruct": Model(128_000, 4_000),
        "meta.llama-4-maverick-17b-128e-instruct-fp8": Model(512_000, 4_000, vision=True),
    }
    deployments: ClassVar[Mapping[str, Mapping[str, Json]]] = {
        "llama-3.1-70b": {"model": "meta.llama-3.1-70b-instruct"},
        "llama-3.1-405b": {"model": "meta.llama-3.1-405b-instruct"},
        "llama-3.3-70b": {"model": "meta.llama-3.3-70b-instruct"},
    }
    pace: ClassVar[tuple[float, float]] = (0.4, 0.018)

    def url(self, origin: str) -> str:
        return origin

    def openai_url(self, origin: str) -> str:
        return origin + self.base_path

    def account(self, origin: str) -> dict[str, Json]:
        """Signed GENERIC chat; the key is the demo one, as text."""
        return {
            "type": self.name,
            "url": origin,
            "region": demo.REGION,
            "compartment": demo.COMPARTMENT,
            "tenancy": demo.TENANCY,
            "user": demo.USER,
            "fingerprint": demo.FINGERPRINT,
            "key": demo.PRIVATE_KEY,
        }

    # ------------------------------------------------------------------ routing
    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            **super().routes(),
            CHAT: {"POST": self.generic},
            FEDERATION: {"POST": federate},
            WORKLOAD: {"POST": exchange},
            RESOURCE_SESSION: {"POST": resource_session},
        }

    def dynamic_route(self, request: Request) -> Mapping[str, Route] | None:
        if request.path.startswith(METADATA + "/"):
            return {"GET": metadata}
        if request.path.startswith(RESOURCE_TOKEN):
            return {"GET": resource_token}
        return super().dynamic_route(request)

    def authorize(self, request: Request, site: Site) -> None:
        """The places that give tokens look at what is shown to them themselves."""
        if request.path == CHAT or request.path.startswith(self.base_path):
            super().authorize(request, site)

    def credential(self, request: Request, site: Site) -> str:
        said = request.headers.get("authorization")
        if said is None:
            return "none"
        if request.path != CHAT and not said.startswith("Signature "):
            return "ok" if said == f"Bearer {demo.API_KEY}" else "bad"
        if request.path != CHAT and request.headers.get("opc-compartment-id") != demo.COMPARTMENT:
            return "bad"
        now = site.wall()
        try:
            verify(request, lambda key_id: _key_of(key_id, now), now)
        except BadSignature:
            return "bad"
        return "ok"

    def headers(self, request: Request, site: Site) -> list[tuple[str, str]]:
        number = f"{key_of(self.name, site.next_number()):032X}"
        given = request.headers.get("opc-request-id")
        id_ = f"{given}/{number}/{number[::-1]}" if given else f"{number}/{number[::-1]}"
        return [("opc-request-id", id_), ("date", formatdate(site.wall(), usegmt=True))]

    # ------------------------------------------------------------------ refusals
    def error(self, status: int, message: str, type_: str, param: str | None = None, code: Json = None) -> Refusal:
        return Refusal(status, {"code": code or type_, "message": message})

    def unauthorized(self, credential: str) -> Refusal:
        return not_authenticated()

    def no_such_path(self, request: Request) -> Refusal:
        return Refusal(404, {"code": "NotFound", "message": "404 Not Found"})

    def wrong_method(self, request: Request, methods: Mapping[str, Route]) -> Refusal:
        return Refusal(405, {"code": "MethodNotAllowed", "message": "405 Method Not Allowed"})

    def no_such_model(self, model: str) -> Refusal:
        if model in RETIRED:
            return Refusal(400, {"code": "400", "message": f"Model {model} {RETIRED[model]} is retired"})
        return Refusal(404, {"code": "404", "message": f"Entity with key {model} not found"})

    def bad_json(self, raw: bytes, why: str) -> Refusal:
        return Refusal(400, {"code": "CannotParseRequest", "message": "Unable to parse the request body"})

    def limited(self, short: Short) -> Refusal:
        return Refusal(429, {"code": "429", "message": f"Too many {short.what}, please try again later"})

    def spoilt(self, fault: Fault, reply: Reply) -> bool:
        return spoil(fault, reply)

    def failure(self, status: int) -> Refusal:
        words = {
            400: "InvalidParameter",
            401: "NotAuthenticated",
            404: "NotAuthorizedOrNotFound",
            409: "IncorrectState",
        }
        message = "Internal error occurred" if status >= 500 else _NOT_FOUND if status == 404 else "Request refused"
        return Refusal(
            status, {"code": words.get(status, str(status)), "message": message}, {"opc-request-id": f"FAULT/{status}"}
        )

    # ------------------------------------------------------------------ GENERIC chat
    def generic(self, request: Request, site: Site) -> Reply:
        asked = self.decode(request.body)
        check(asked)
        if asked["compartmentId"] != demo.COMPARTMENT:
            raise Refusal(404, {"code": "NotAuthorizedOrNotFound", "message": _NOT_FOUND})
        name, model, on_demand = self._served(asked["servingMode"])
        chat = asked["chatRequest"]
        check_limits(chat, on_demand=on_demand)
        return self._answered(openai_body(name, chat), (name, model), request, site)

    def _served(self, mode: Mapping[str, Json]) -> tuple[str, Model, bool]:
        """Which model, and whether it is on demand."""
        if mode["servingType"] == "DEDICATED":
            name = _ENDPOINTS.get(mode["endpointId"])
            if name is None:
                raise Refusal(404, {"code": "NotAuthorizedOrNotFound", "message": _NOT_FOUND})
            return name, self.models[name]._replace(max_output_tokens=8_000), False
        name, model = self.model_of({"model": mode["modelId"]})
        return name, model, True

    def _answered(self, body: dict[str, Json], served: tuple[str, Model], request: Request, site: Site) -> Reply:
        name, model = served
        messages: list[Json] = body["messages"]
        if count_images(messages) and not model.vision:
            raise invalid("The model does not take images")
        prompt = prompt_tokens(turns_of(messages), body.get("tools") or (), count_images(messages))
        length = body.get("max_tokens") or TINY_TOKENS
        self.check_room(prompt, length, self.context_of(model, site))
        self.take_room(prompt + length, site)
        talk = Talk(
            id="",
            created=int(site.wall()),
            model=name,
            body=body,
            request=request,
            choices=answers(self.ask_of(body, site, min(length, model.max_output_tokens))),
            prompt_tokens=prompt,
        )
        reply = self.reply(talk, whole, events)
        return GenericReply(**{name: getattr(reply, name) for name in reply.__struct_fields__})

    def check_room(self, prompt: int, asked: int | None, context: int) -> None:
        total = prompt + (asked or 0)
        if total > context:
            message = f"This model's maximum context length is {context} tokens. However, you requested {total} tokens."
            raise Refusal(400, {"code": "400", "message": message})

    # ------------------------------------------------------------------ the OpenAI-compatible path
    def check_chat(self, body: dict[str, Json], model: Model) -> None:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise invalid("messages must not be empty")
        if unknown := [name for name in body if name not in _OPENAI]:
            raise invalid(f"{unknown[0]} is not recognized")
        if count_images(messages) and not model.vision:
            raise invalid("The model does not take images")
        for name, low, high in (("temperature", 0, 2), ("top_p", 0, 1), ("n", 1, 128)):
            value = body.get(name)
            if value is not None and (not isinstance(value, int | float) or not low <= value <= high):
                raise invalid(f"{name} must be between {low} and {high}")
        asked = self.asked_tokens(body)
        if asked is not None and (not isinstance(asked, int) or not 1 <= asked <= model.max_output_tokens):
            raise invalid(f"max_tokens must be between 1 and {model.max_output_tokens}")

    def list_models(self, request: Request, site: Site) -> Reply:
        data = [self._listed(name, site) for name in self.models]
        return json_reply({"object": "list", "data": data})

    def one_model(self, request: Request, site: Site, name: str) -> Reply:
        self.model_of({"model": name})
        return json_reply(self._listed(name, site))

    def _listed(self, name: str, site: Site) -> dict[str, Json]:
        return {"id": name, "object": "model", "created": int(site.began_wall), "owned_by": "meta"}


def _key_of(key_id: str, wall_now: float) -> PublicKey:
    """The public key behind a key id: the demo user's, or the one that a session token was given for."""
    if key_id.startswith("ST$"):
        return key_of_token(key_id[3:], wall_now)
    if key_id != f"{demo.TENANCY}/{demo.USER}/{demo.FINGERPRINT}":
        raise BadSignature("nobody's key")
    return PublicKey(demo.API_MODULUS, demo.EXPONENT)


CLOUD = OCI()
