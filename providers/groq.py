"""Groq: OpenAI's API under /openai/v1, one choice an answer, usage in its own place too; unknown parameters refused.

Source: groq 1.7.0 (docstrings and types); console.groq.com/docs/rate-limits for the headers."""

from providers._parameters import CHAT
from providers.openai import OpenAI

TAKES = CHAT - set(
    """audio modalities moderation prediction prompt_cache_key prompt_cache_options prompt_cache_retention
    safety_identifier verbosity web_search_options""".split()  # noqa: SIM905
)
"""It refuses any other with `property '…' is unsupported`."""


class Groq(OpenAI, frozen=True, kw_only=True):
    """`api_key` is a key that begins with gsk_."""

    trace_context: bool = False

    title = "Groq"
    credentials = "API key"
    remark = "Llama ended there for all but enterprise contracts; gpt-oss goes on. It has no weights that embed."
    default_url = "https://api.groq.com/openai/v1"

    def takes(self, model: str) -> frozenset[str] | None:
        return TAKES
