"""Embeddings in OpenAI's shape, for the clouds that have them."""

from collections.abc import Sequence

from sandbox.answers import packed, tokens_of, vector_for
from sandbox.cloud import json_reply
from sandbox.types import Json, Reply

MOST_INPUTS = 2048


def texts_of(given: Json) -> list[str] | None:
    """The texts of `input`: a string, strings, tokens, or lists of tokens; None for anything else."""
    items = [given] if isinstance(given, str) or _are_tokens(given) else given
    if not isinstance(items, list) or not 0 < len(items) <= MOST_INPUTS:
        return None
    if not all((isinstance(item, str) and item) or _are_tokens(item) for item in items):
        return None
    return [item if isinstance(item, str) else " ".join(f"t{token}" for token in item) for item in items]


def _are_tokens(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(n, int) for n in value)


def embedded(model: str, texts: Sequence[str], length: int, base64: bool) -> Reply:
    """One unit vector per text."""
    vectors = [vector_for(text, length) for text in texts]
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    tokens = sum(len(tokens_of(text)) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    reply = json_reply({"object": "list", "data": data, "model": model, "usage": usage})
    reply.model, reply.prompt_tokens, reply.answer = model, tokens, True
    return reply
