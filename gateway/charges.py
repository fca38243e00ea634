"""What an attempt costs: by what the cloud said it used, or by an estimate where it cannot say any more. Pure.

Rule 1. The price is the one in force when the call was decided. By characters where the cloud bills those and they were
        counted, else by tokens; tokens from the cloud's cache at its own price for them.
Rule 2. A cloud bills what it read and wrote, also when the answer was never delivered: an attempt that ended after it
        was sent is estimated and marked, as the prompt and what can have been written in its time.
"""

from gateway.types import Call, Candidate, Usage

MAYBE_BILLED = frozenset({"first_byte_timeout", "idle_timeout", "total_timeout", "reset", "closed", "too_large"})
"""Kinds of failure after which the cloud may have done its work; an error of its own it does not bill."""

UNKNOWN_S = 0.005
"""Per token at a deployment of which nothing was learned: as fast as most are."""


def nano(candidate: Candidate, usage: Usage) -> int:
    """Nano-dollars for what was used; 0 where no price is known."""
    per_character = candidate.deployment.per_character
    if per_character and usage.prompt_characters is not None and usage.output_characters is not None:
        return per_character.cost(usage.prompt_characters, usage.output_characters)
    price = candidate.price
    return price.cost(usage.prompt_tokens, usage.output_tokens, usage.cached_tokens) if price else 0


def undelivered(call: Call, candidate: Candidate, seconds: float) -> Usage:
    """What an attempt probably used that ended without an answer after so many seconds.

    A stream shows what is written: nothing was. A plain answer is written unseen, at the speed known of the deployment
    and no longer than this route's answers usually are."""
    known = candidate.plain.tpot
    per_token_s = known.p50_s if known is not None and known.p50_s > 0 else UNKNOWN_S
    silent = call.stream or call.endpoint == "embeddings"
    output = 0 if silent else min(call.expected_output_tokens, int(seconds / per_token_s))
    return Usage(call.prompt_tokens, output, estimated=True)
