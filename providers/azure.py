"""Azure AI Foundry: four forms of the same API, told apart by the URL and `deployment`.

| url | form | path of a chat |
| https://{resource}.services.ai.azure.com (or …/models) | models | /models/chat/completions?api-version=… |
| https://{resource}.services.ai.azure.com/openai/v1 | openai_v1 | /openai/v1/chat/completions |
| https://{name}.{region}.models.ai.azure.com | serverless | /chat/completions?api-version=… |
| https://{resource}.openai.azure.com | deployments | /openai/deployments/{model}/chat/completions?api-version=… |

In the clouds of the US government and of China the hosts end in azure.us and azure.cn, and tokens are had there, too.

Source: MicrosoftDocs/azure-ai-docs; azure-ai-inference 1.0.0b9. In front of another host, say `form`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal
from urllib.parse import quote, urlsplit

from gateway.secret import Secret
from gateway.types import Call, Deployment, Endpoint
from providers.credentials.access_token import AccessToken
from providers.credentials.azure import Entra, Identity
from providers.openai import OpenAI

Form = Literal["models", "openai_v1", "serverless", "deployments"]

API_VERSIONS: Mapping[Form, str] = {
    "models": "2024-05-01-preview",
    "serverless": "2024-05-01-preview",
    "deployments": "2024-10-21",
}

REFERENCE = frozenset(
    """model messages frequency_penalty presence_penalty max_tokens response_format seed stop stream temperature top_p
    tools tool_choice""".split()  # noqa: SIM905
)
"""What the inference API knows; all else is as `extra_parameters` says."""


class Azure(OpenAI, frozen=True, kw_only=True):
    """`api_key` goes as `api-key`, `token` (of Entra) as bearer, `entra` says how to have such tokens; `auth: bearer`
    sends the key as bearer, as some serverless endpoints want it. `extra_parameters` is what Azure does with fields it
    does not know."""

    title = "[Azure AI Foundry](docs/providers/azure.md)"
    credentials = "API key, Entra (`arriero[azure]`)"
    remark = (
        "Microsoft's tables say of every Llama that it calls no tools and answers in text alone; where yours does "
        "more, `features: [+tools]` at its deployment says so. Pictures are Llama 4's, embeddings OpenAI's weights'."
    )
    url: str = ""
    token: Secret | None = None
    entra: Entra | None = None
    auth: Literal["api-key", "bearer"] = "api-key"
    form: Form | None = None
    api_version: str | None = None
    extra_parameters: Literal["pass-through", "drop", "error"] = "pass-through"
    trace_context: bool = False

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("'url' is missing: the endpoint, such as https://acme.services.ai.azure.com")
        super().__post_init__()
        if sum(found is not None for found in (self.api_key, self.token, self.entra)) != 1:
            raise ValueError("needs one of 'api_key', 'token' and 'entra'")

    def url_form(self) -> Form:
        parts = urlsplit(self.base_url())
        if self.form:
            return self.form
        if parts.path.endswith("/openai/v1"):
            return "openai_v1"
        host = (parts.hostname or "").rpartition(".")[0]
        if host.endswith((".models.ai.azure", ".inference.ai.azure")):
            return "serverless"
        return "deployments" if host.endswith(".openai.azure") else "models"

    def target(self, deployment: Deployment, endpoint: Endpoint) -> str:
        path, form = urlsplit(self.base_url()).path, self.url_form()
        if form == "openai_v1":
            return f"{path.removesuffix('/openai/v1')}/openai/v1/{endpoint}"
        version = f"?api-version={quote(self.api_version or API_VERSIONS[form], safe='')}"
        if form == "deployments":
            return f"{path}/openai/deployments/{quote(deployment.model, safe='')}/{endpoint}{version}"
        if form == "models":
            return f"{path.removesuffix('/models')}/models/{endpoint}{version}"
        return f"{path}/{endpoint}{version}"

    def takes(self, model: str) -> frozenset[str] | None:
        if self.extra_parameters == "pass-through" or self.url_form() not in ("models", "serverless"):
            return None
        return REFERENCE

    def headers(self) -> Sequence[tuple[str, str]]:
        if self.token:
            return [("authorization", f"Bearer {self.token.reveal()}"), *self._extra()]
        if self.api_key is None:
            return self._extra()
        if self.auth == "bearer":
            return [("authorization", f"Bearer {self.api_key.reveal()}"), *self._extra()]
        return [("api-key", self.api_key.reveal()), *self._extra()]

    def _extra(self) -> Sequence[tuple[str, str]]:
        return [("extra-parameters", self.extra_parameters)] if self.url_form() in ("models", "serverless") else []

    def secrets(self) -> Sequence[str]:
        own = self.entra.client_secret if self.entra else None
        return [secret.reveal() for secret in (self.api_key, self.token, own) if secret]

    def access_token(self, clock: Callable[[], float]) -> AccessToken | None:
        if self.entra is None:
            return None
        entra = self.entra.beside(urlsplit(self.base_url()).hostname or "")
        return AccessToken(Identity(entra, self.url_form() == "serverless", reach=self.token_origin), clock)

    def changes(self, call: Call, deployment: Deployment) -> Mapping[str, bytes | None]:
        """`stream_options` is not in the reference of the two inference forms: `extra-parameters` carries it there."""
        changes = dict(super().changes(call, deployment))
        if self.url_form() in ("models", "serverless") and self.extra_parameters == "error":
            changes["stream_options"] = None
        return changes
