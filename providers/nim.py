"""NVIDIA NIM, hosted or your own: OpenAI's API with a closed list of parameters.

Source: litellm 1.109.1, run; parameters as it lists them; the closed list can1357/oh-my-pi#2299."""

from providers.openai import OpenAI

TAKES = frozenset(
    """model messages max_tokens max_completion_tokens frequency_penalty presence_penalty response_format seed stop
    stream stream_options temperature tools tool_choice top_p""".split()  # noqa: SIM905
)
"""It refuses any other as an unsupported parameter: can1357/oh-my-pi#2299."""


class NIM(OpenAI, frozen=True, kw_only=True):
    """`api_key` is a key that begins with nvapi-; your own NIM needs `url` and no key."""

    title = "NVIDIA NIM"
    credentials = "API key, or none for your own"
    remark = (
        "pictures are its vision models'. Embeddings of weights that tell questions from passages need `input_type` in "
        "the call, or `-query` or `-passage` at the end of the deployment's `model`."
    )
    default_url = "https://integrate.api.nvidia.com/v1"

    def takes(self, model: str) -> frozenset[str] | None:
        return TAKES
