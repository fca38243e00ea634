"""Conversations that go wrong, what streams tell beside text, and the other two endpoints."""

from tests.conformance.conversation import Conversation, Refused, Seen, asking, expect, user

WAIT_S = "7"


def fault(kind: str, **more: object) -> dict[str, object]:
    return {"fault": {"kind": kind, **more}}


def usage_last(seen: Seen) -> None:
    if seen.chunks is not None:
        told = [chunk for chunk in seen.chunks if chunk.usage is not None]
        expect(len(told) == 1 and told[0] is seen.chunks[-1] and told[0].choices == [], "usage is not the last event")


def no_usage(seen: Seen) -> None:
    expect(all(chunk.usage is None for chunk in seen.chunks or ()), "usage that nobody asked for")


INPUTS = ["Tell me of llamas.", "日本 🦙", "a b c"]

TROUBLES = [
    Conversation("usage where it is asked for", "streams", asking(stream_options={"include_usage": True}), usage_last,
                 plain=False),
    Conversation("no usage where it is not", "streams", asking(stream_options={"include_usage": False}), no_usage,
                 plain=False),
    Conversation("a stream that breaks off", "streams", asking(), cloud=fault("close_after_tokens", after_tokens=4),
                 refused=Refused(0, "stream_incomplete"), plain=False),
    Conversation("an error in mid stream", "streams", asking(),
                 cloud=fault("error_event", after_tokens=4, status=500), refused=Refused(0, "stream_incomplete"),
                 plain=False),
    Conversation("an error as the first event", "streams", asking(), cloud=fault("error_event", status=500),
                 refused=Refused(502, "upstream_error"), plain=False),
    Conversation("a model of no route", "errors", asking(), route="nowhere", refused=Refused(404, "model_not_found")),
    Conversation("a credential that the cloud refuses", "errors", asking(), route="stranger",
                 refused=Refused(502, "upstream_auth")),
    Conversation("a model that the cloud does not have", "errors", asking(), route="gone",
                 refused=Refused(502, "upstream_error")),
    Conversation("a prompt that does not fit", "errors", asking(user("llama " * 900)), cloud={"context_tokens": 400},
                 refused=Refused(400, "context_length_exceeded")),
    Conversation("a rate limit with its wait", "errors", asking(),
                 cloud=fault("status", status=429, headers={"retry-after": WAIT_S}),
                 refused=Refused(429, "upstream_rate_limited", retry_after=True)),
    Conversation("an error of the cloud", "errors", asking(), cloud=fault("status", status=500),
                 refused=Refused(502, "upstream_error")),
    Conversation("a cloud that is overloaded", "errors", asking(), cloud=fault("status", status=503),
                 refused=Refused(503, "upstream_error")),
    Conversation("a cloud that hangs up", "errors", asking(), cloud=fault("reset_before"),
                 refused=Refused(502, "upstream_error")),
    Conversation("a cloud that is silent", "errors",
                 asking(extra_headers={"x-arriero-timeout-s": "0.3"}), cloud=fault("silent"),
                 refused=Refused(504, "upstream_timeout")),
    Conversation("a web page for an answer", "errors", asking(), cloud=fault("html"),
                 refused=Refused(502, "upstream_error")),
    Conversation("a temperature below nothing", "errors", asking(temperature=-1), refused=Refused(400, "")),
    Conversation("a completion", "completions", {"prompt": "Once upon a time", "max_tokens": 9},
                 endpoint="completions"),
    Conversation("an embedding", "embeddings", {"input": INPUTS[0]}, route="vectors", endpoint="embeddings",
                 streams=False),
    Conversation("three embeddings as numbers", "embeddings", {"input": INPUTS, "encoding_format": "float"},
                 route="vectors", endpoint="embeddings", streams=False),
]  # fmt: skip
