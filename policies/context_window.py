"""How long a call is against how much a deployment can take. Nothing about other abilities."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from gateway.types import Call, Candidate, Frozen, Selection
from policies._reasons import short, without


class ContextWindow(Frozen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Keeps the deployments whose limits hold the prompt and the output that was asked for.

    Both are counted per choice, and output that was not asked for counts as none. Of several prompts in one call the
    longest counts. The prompt is an estimate from bytes: `margin` adds a share of it for safety, 0.1 is ten per cent. A
    limit that is not known lets everything pass.
    """

    kind: ClassVar[Literal["may", "can_now", "order"]] = "may"
    order_independent: ClassVar[bool] = True

    margin: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.margin < math.inf:
            raise ValueError(f"margin must be a share of the prompt from 0 up, such as 0.1, not {self.margin}")

    def apply(self, call: Call, candidates: Sequence[Candidate], now: float) -> Selection:
        output = call.max_output_tokens or 0
        prompt = call.longest_prompt_tokens or call.prompt_tokens
        needed = prompt + output
        if self.margin:
            needed += int(prompt * self.margin)
        removed: dict[str, str] = {}
        for candidate in candidates:
            deployment = candidate.deployment
            context, longest = deployment.context_tokens, deployment.max_output_tokens
            if context is not None and needed > context:
                removed[deployment.name] = short(f"needs {needed:,} tokens, has {context:,}")
            elif longest is not None and output > longest:
                removed[deployment.name] = short(f"asked {output:,} output tokens, gives {longest:,}")
        return without(candidates, removed)
