"""NVIDIA NIM, hosted or your own: OpenAI's API. Source: litellm 1.109.1, run; parameters as it lists them."""

from providers.openai import OpenAI


class NIM(OpenAI, frozen=True, kw_only=True):
    """`api_key` is a key that begins with nvapi-; your own NIM needs `url` and no key."""

    default_url = "https://integrate.api.nvidia.com/v1"
