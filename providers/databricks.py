"""Databricks model serving: OpenAI's API under /serving-endpoints, `model` is the endpoint's name.

It refuses `stream_options` for its Llama and tells usage in every chunk. Sources: litellm 1.109.1, run;
learn.microsoft.com databricks supported-models; continuedev/continue#12936; spiceai#6600."""

from gateway.secret import Secret
from providers.openai import OpenAI


class Databricks(OpenAI, frozen=True, kw_only=True):
    """`url` is https://{workspace}, with or without /serving-endpoints; `api_key` a token that begins with dapi."""

    url: str = ""
    api_key: Secret | None = None
    stream_usage: bool = False

    def __post_init__(self) -> None:
        if not self.url:
            raise ValueError("'url' is missing: https://{workspace} of your Databricks")
        super().__post_init__()

    def base_url(self) -> str:
        return self.url.rstrip("/").removesuffix("/serving-endpoints") + "/serving-endpoints"
