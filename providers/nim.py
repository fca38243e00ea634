"""NVIDIA NIM, hosted or your own: OpenAI's API with a closed list of parameters.

Source: litellm 1.109.1, run; parameters as it lists them; the closed list can1357/oh-my-pi#2299."""

from providers.openai import UNNOTICED, OpenAI


class NIM(OpenAI, frozen=True, kw_only=True):
    """`api_key` is a key that begins with nvapi-; your own NIM needs `url` and no key."""

    title = "NVIDIA NIM"
    credentials = "API key, or none for your own"
    default_url = "https://integrate.api.nvidia.com/v1"
    left_out = UNNOTICED
