"""The most that a call can cost and what it will probably cost, before it is sent; the cap that makes the first true.

Rule 1. The most is never passed by a cloud that keeps to `max_tokens`: a token is at least one byte of the body.
"""

from collections.abc import Sequence

import msgspec

from gateway.limits.terms import Amounts, Terms
from gateway.peek import BYTES_PER_TOKEN, rewrite, spans, uncounted
from gateway.types import Call, Candidate

TEMPLATE_TOKENS = 256
"""What a chat template may add of its own: dates, roles, the first words of an answer."""
TOOL_TOKENS = 1024
"""What clouds write around tools, at most."""
PICTURE_TOKENS = 6404
"""Four tiles of Llama 3.2 vision at 1,601 tokens; Llama 4's pictures are smaller."""
TOKEN_CHARACTERS = 128
"""The longest token of Llama 3's vocabulary, a run of spaces: what a token is where a cloud bills characters."""
USUAL_MOST_TOKENS = 4096
"""The output of a deployment of which no limit is known."""
_LIMITS = ("max_tokens", "max_completion_tokens")


def expected_tokens(call: Call) -> int:
    """Prompt and output; what was asked for where that was said, else what this route and key usually get."""
    most = call.max_output_tokens
    if call.endpoint == "embeddings":
        return call.prompt_tokens
    return call.prompt_tokens + (call.expected_output_tokens if most is None else most * call.choices)


def amounts(call: Call, plan: Sequence[Candidate], terms: Terms) -> Amounts:
    """At the dearest deployment that the plan may reach; money and cap are 0 where nothing asks for them."""
    expected = most = output = 0
    if terms.expects:
        prompt, answer = call.prompt_tokens, call.expected_output_tokens
        expected = _dearest(plan, (prompt, answer), (prompt * BYTES_PER_TOKEN, answer * BYTES_PER_TOKEN))
    if terms.hard:
        output = 0 if call.endpoint == "embeddings" else cap(call, plan)
        prompt, answer = most_prompt_tokens(call), output * call.choices
        if "best_of" in call.fields:
            answer = max(answer, output * _said(call, "best_of"))
        most = _dearest(plan, (prompt, answer), (prompt, answer * TOKEN_CHARACTERS))
    return Amounts(expected_tokens(call), expected, most, output)


def _dearest(plan: Sequence[Candidate], tokens: tuple[int, int], characters: tuple[int, int]) -> int:
    """The highest price of that much, by tokens or by characters where a cloud bills those.

    Prices of one row are compared before they are rounded, for that costs most: the order stays the same."""
    dearest, highest, row, (prompt, output) = 0, -1, None, tokens
    for candidate in plan:
        price, per_character = candidate.price, candidate.deployment.per_character
        if price is not None:
            if price.long is not None:
                dearest = max(dearest, price.cost(prompt, output))
            elif (unrounded := price.input * prompt + price.output * output) > highest:
                highest, row = unrounded, price
        if per_character is not None:
            dearest = max(dearest, per_character.cost(*characters))
    return dearest if row is None else max(dearest, row.cost(prompt, output))


def most_prompt_tokens(call: Call) -> int:
    """No byte-level tokenizer makes more tokens than there are bytes; pictures and sounds are counted apart."""
    size, pictures = uncounted(call.body)
    around = TEMPLATE_TOKENS + (TOOL_TOKENS if "tools" in call.features else 0)
    return size + pictures * PICTURE_TOKENS + around


def cap(call: Call, plan: Sequence[Candidate]) -> int:
    """The most output tokens of a choice: what the body says, the larger of two; else what each deployment can give."""
    if call.max_output_tokens is not None:
        if _LIMITS[0] in call.fields and _LIMITS[1] in call.fields:
            return max(call.max_output_tokens, *[_said(call, name) for name in _LIMITS])
        return call.max_output_tokens
    return min(_most_output(call, candidate) for candidate in plan)


def _most_output(call: Call, candidate: Candidate) -> int:
    """What it can give, so that prompt and output fit its context; a quarter more prompt than it seems."""
    deployment = candidate.deployment
    most = deployment.max_output_tokens or USUAL_MOST_TOKENS
    if deployment.context_tokens:
        prompt = call.longest_prompt_tokens or call.prompt_tokens
        most = min(most, deployment.context_tokens - prompt - prompt // 4 - 64)
    return max(most, 1)


def capped(call: Call, tokens: int) -> Call:
    """The call with `max_tokens` said, so that the cloud cannot give more."""
    said = call.fields.get("max_tokens")
    if call.endpoint == "embeddings" or (said is not None and call.body[said.start : said.end] != b"null"):
        return call
    body = rewrite(call.body, call.fields, {"max_tokens": b"%d" % tokens})
    return msgspec.structs.replace(call, body=body, fields=spans(body), max_output_tokens=tokens)


def _said(call: Call, name: str) -> int:
    """A whole number of the body, 0 where it says none."""
    span = call.fields.get(name)
    text = call.body[span.start : span.end] if span else b""
    return int(text) if text.isdigit() else 0
