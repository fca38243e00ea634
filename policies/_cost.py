"""What a call is expected to cost at a candidate. Not a policy."""

from collections.abc import Sequence
from typing import Literal

from gateway.types import Call, Candidate

OwnGpus = Literal["loaded", "marginal"]


def expected_costs(call: Call, candidates: Sequence[Candidate], own_gpus: OwnGpus) -> list[int | None]:
    """Millionths of a nano-dollar, exact, so that nothing is rounded before costs are compared; None if not priced."""
    prompt, output = call.prompt_tokens, call.expected_output_tokens
    costs: list[int | None] = []
    for candidate in candidates:
        price = candidate.price
        if own_gpus == "marginal" and candidate.marginal is not None:
            price = candidate.marginal
        costs.append(None if price is None else price.input * prompt + price.output * output)
    return costs
