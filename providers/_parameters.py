"""OpenAI's chat parameters, and what becomes of those that a pass-through cloud does not take. Data, and one decision.

Rule 1. Only OpenAI's own words are looked at: a vendor's field passes, and the cloud that it was meant for knows it.
Rule 2. A parameter that changes the answer is refused, or dropped where the route is lossy; never forgotten.

Source: openai 3.54.0, Completions.create."""

from collections.abc import Mapping
from typing import Literal

from gateway.types import DROPPABLE, Call, Missing

CHAT = frozenset(
    """messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens
    max_tokens metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity
    web_search_options""".split()  # noqa: SIM905
)

IGNORABLE = frozenset(
    """metadata prediction prompt_cache_key prompt_cache_options prompt_cache_retention safety_identifier service_tier
    store user""".split()  # noqa: SIM905
)
"""What does not change the answer: left out, and said as dropped, where a cloud does not take it."""

ASKED = frozenset({"audio", "function_call", "functions", "tools", "web_search_options"})
"""What is itself asked for: never dropped."""

_ASKING = frozenset(name for names in DROPPABLE.values() for name in names)
_NOTHING = frozenset({b"null", b"false", b"{}", b"[]", b'["text"]', b'"auto"', b'"none"'})
"""Values with which a parameter asks for nothing."""

Handling = Literal["unsaid", "dropped", "refused"]


def untaken(call: Call, takes: frozenset[str], missing: Missing) -> Mapping[str, Handling]:
    """What becomes of each parameter that a cloud with a closed list does not take. Those of a feature that the call
    uses are the plan's matter; without the feature they ask for nothing."""
    used = {name for feature in call.features for name in DROPPABLE.get(feature, ())} | {"stream_options"}
    names = sorted(CHAT & call.fields.keys() - takes - used)
    return {name: _handling(name, call, missing) for name in names}


def _handling(name: str, call: Call, missing: Missing) -> Handling:
    span = call.fields[name]
    if name in _ASKING or call.body[span.start : span.end] in _NOTHING:
        return "unsaid"
    if name in IGNORABLE or (missing == "lossy" and name not in ASKED):
        return "dropped"
    return "refused"
