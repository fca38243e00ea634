"""Groq: OpenAI's API under /openai/v1, one choice an answer, usage in its own place too; unknown parameters refused.

Source: groq 1.7.0 (docstrings and types); console.groq.com/docs/rate-limits for the headers."""

from providers.openai import OpenAI


class Groq(OpenAI, frozen=True, kw_only=True):
    """`api_key` is a key that begins with gsk_."""

    title = "Groq"
    credentials = "API key"
    default_url = "https://api.groq.com/openai/v1"
    left_out = frozenset({"prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
