"""Databricks model serving: OpenAI's API under /serving-endpoints, `model` is the endpoint's name.

It refuses `stream_options` for its Llama and tells usage in every chunk; it knows the output limit by its old name
only, wants parameters of every tool, and tells of unknown fields in plain text. Sources: litellm 1.109.1, run;
learn.microsoft.com databricks supported-models; continuedev/continue#12936; databricks-sdk-py#1263; spiceai#6600."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.errors import Detail
from gateway.secret import Secret
from gateway.types import Call, Deployment
from providers._parameters import CHAT, IGNORABLE
from providers.credentials.access_token import AccessToken
from providers.credentials.databricks import ServicePrincipal
from providers.openai import OpenAI

_BAD_REQUEST = b"Bad request: "
_ANY_OBJECT = msgspec.Raw(b'{"type":"object","properties":{}}')

TAKES = frozenset(
    """model messages max_completion_tokens max_tokens n response_format stop stream temperature tools tool_choice
    top_p""".split()  # noqa: SIM905
)
"""Of its Llamas, the output limit by its old name: any other is an unknown field; litellm 1.109.1 sends no other."""


class Databricks(OpenAI, frozen=True, kw_only=True):
    """`url` is https://{workspace}, with or without /serving-endpoints; `api_key` a token that begins with dapi, or
    `client_id` and `client_secret` those of a service principal (OAuth machine-to-machine)."""

    title = "Databricks"
    credentials = "personal access token, OAuth machine-to-machine"
    remark = "pictures are Llama 4's; embeddings are of its embedding endpoints."
    url: str = ""
    api_key: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    stream_usage: bool = False
    trace_context: bool = False

    token_refusals = frozenset({401, 403})
    """Databricks answers 403 to a token that it does not know."""

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("'url' is missing: https://{workspace} of your Databricks")
        super().__post_init__()
        if (self.client_id is None) != (self.client_secret is None):
            raise ValueError("'client_id' and 'client_secret' go together")
        if self.api_key is not None and self.client_id is not None:
            raise ValueError("needs one of 'api_key' and 'client_id', not both")

    def takes(self, model: str) -> frozenset[str] | None:
        return TAKES if "llama" in model else CHAT - IGNORABLE

    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/serving-endpoints") + "/serving-endpoints"

    def changes(self, call: Call, deployment: Deployment) -> Mapping[str, bytes | None]:
        changes = dict(super().changes(call, deployment))
        limit = call.fields.get("max_completion_tokens")
        if limit is not None:
            changes |= {"max_completion_tokens": None, "max_tokens": call.body[limit.start : limit.end]}
        tools = call.fields.get("tools")
        if tools is not None and (described := _with_parameters(call.body[tools.start : tools.end])):
            changes["tools"] = described
        return changes

    def detail(self, body: bytes) -> Detail:
        if body.startswith(_BAD_REQUEST):
            return Detail(body[:300].decode("utf-8", "replace").strip(), "invalid_request_error")
        return super().detail(body)

    def secrets(self) -> Sequence[str]:
        return [secret.reveal() for secret in (self.api_key, self.client_secret) if secret]

    def access_token(self, clock: Callable[[], float]) -> AccessToken | None:
        if self.client_id is None or self.client_secret is None:
            return None
        origin = self.token_origin(self.base_url())
        return AccessToken(ServicePrincipal(origin, self.client_id, self.client_secret, clock), clock)


def _with_parameters(raw: bytes) -> bytes | None:
    """The tools with parameters where a function has none; None where there is nothing to change or to be read."""
    try:
        tools = msgspec.json.decode(raw, type=list[dict[str, msgspec.Raw]])
        functions = [msgspec.json.decode(tool["function"], type=dict[str, msgspec.Raw]) for tool in tools]
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
    if all("parameters" in function for function in functions):
        return None
    for tool, function in zip(tools, functions, strict=True):
        tool["function"] = msgspec.Raw(msgspec.json.encode({"parameters": _ANY_OBJECT, **function}))
    return msgspec.json.encode(tools)
