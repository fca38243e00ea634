"""Databricks model serving: OpenAI's API under /serving-endpoints, `model` is the endpoint's name.

Source: litellm 1.109.1, run; learn.microsoft.com databricks supported-models. It lists no stream_options."""

from gateway.secret import Secret
from providers.openai import OpenAI


class Databricks(OpenAI, frozen=True, kw_only=True):
    """`url` is https://{workspace}, with or without /serving-endpoints; `api_key` a token that begins with dapi."""

    url: str = ""
    api_key: Secret | None = None

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("'url' is missing: https://{workspace} of your Databricks")
        super().__post_init__()

    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/serving-endpoints") + "/serving-endpoints"
