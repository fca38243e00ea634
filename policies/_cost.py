"""What a call is expected to cost at a candidate. Not a policy."""

from collections.abc import Sequence
from typing import Literal

from gateway.types import Call, Candidate

OwnGpus = Literal["loaded", "marginal"]


def own_gpus_lead(order: Sequence[Candidate], own_gpus: OwnGpus) -> str:
    """Why own GPUs are first although the price that is shown of them is not the lowest; mostly nothing."""
    first = order[0] if len(order) > 1 else None
    if first is None or own_gpus == "loaded" or first.marginal is None or first.marginal == first.price:
        return ""
    return f"own GPUs by what one more call adds, not by the price shown: {first.name}"


def expected_costs(call: Call, candidates: Sequence[Candidate], own_gpus: OwnGpus) -> list[int | None]:
    """Millionths of a nano-dollar, exact, so that nothing is rounded before costs are compared; None if not priced."""
    prompt, output, marginal = call.prompt_tokens, call.expected_output_tokens, own_gpus == "marginal"
    costs: list[int | None] = []
    for candidate in candidates:
        price = candidate.marginal if marginal else None
        if price is None:
            price = candidate.price
        costs.append(None if price is None else price.input * prompt + price.output * output)
    return costs
