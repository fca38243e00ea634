"""Databricks model serving: OpenAI's API under /serving-endpoints, `model` is the endpoint's name.

It refuses `stream_options` for its Llama and tells usage in every chunk. Sources: litellm 1.109.1, run;
learn.microsoft.com databricks supported-models; continuedev/continue#12936; spiceai#6600."""

from collections.abc import Callable, Sequence

from gateway.secret import Secret
from providers.credentials.access_token import AccessToken
from providers.credentials.databricks import ServicePrincipal
from providers.openai import OpenAI


class Databricks(OpenAI, frozen=True, kw_only=True):
    """`url` is https://{workspace}, with or without /serving-endpoints; `api_key` a token that begins with dapi, or
    `client_id` and `client_secret` those of a service principal (OAuth machine-to-machine)."""

    url: str = ""
    api_key: Secret | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    stream_usage: bool = False

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

    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/serving-endpoints") + "/serving-endpoints"

    def secrets(self) -> Sequence[str]:
        return [secret.reveal() for secret in (self.api_key, self.client_secret) if secret]

    def access_token(self, clock: Callable[[], float]) -> AccessToken | None:
        if self.client_id is None or self.client_secret is None:
            return None
        principal = ServicePrincipal(self.base_url(), self.client_id, self.client_secret, self.ca_file, clock)
        return AccessToken(principal, clock)
