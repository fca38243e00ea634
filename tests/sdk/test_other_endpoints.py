"""Completions, embeddings and models through the official SDK."""

import base64
import json
import struct

import openai
import pytest

from tests.sdk.conftest import LLAMA, PLACES, Wire


def test_completions_plain_and_streamed(wire: Wire):
    plain = wire.client.completions.create(
        model="on-vllm", prompt="Once upon a time", max_tokens=9, n=2, logprobs=2, seed=1, stop=["###"]
    )
    assert wire.arrived == wire.sent.replace('"model":"on-vllm"', f'"model":"{LLAMA}"')
    assert wire.call["path"] == "/v1/completions"
    assert plain.object == "text_completion"
    assert plain.model == "on-vllm"
    assert len(plain.choices) == 2
    texts = {0: "", 1: ""}
    for chunk in wire.client.completions.create(
        model="on-vllm", prompt="Once upon a time", max_tokens=9, n=2, seed=1, stop=["###"], stream=True
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert list(texts.values()) == [choice.text for choice in plain.choices]


def test_embeddings_come_back_number_for_number(wire: Wire):
    numbers = wire.client.embeddings.create(
        model="vectors", input=["one", "two"], dimensions=8, encoding_format="float", user="u"
    )
    assert wire.arrived == wire.sent.replace('"model":"vectors"', '"model":"text-embedding-3-small"')
    assert numbers.model == "vectors"
    assert [row.index for row in numbers.data] == [0, 1]
    assert len(numbers.data[0].embedding) == 8
    packed = wire.client.embeddings.create(model="vectors", input=["one", "two"], dimensions=8)
    assert json.loads(wire.arrived)["encoding_format"] == "base64"
    for row, other in zip(numbers.data, packed.data, strict=True):
        assert struct.pack("<8f", *row.embedding) == struct.pack("<8f", *other.embedding)
    raw = wire.client.embeddings.with_raw_response.create(
        model="vectors", input="one", dimensions=8, encoding_format="base64"
    )
    text = raw.http_response.json()["data"][0]["embedding"]
    assert len(base64.b64decode(text)) == 32


def test_a_model_that_only_talks_makes_no_vectors(wire: Wire):
    with pytest.raises(openai.BadRequestError) as caught:
        wire.client.embeddings.create(model="llama-3.1-8b", input="Hello")
    assert caught.value.code == "unsupported_feature"


def test_models_are_listed_with_aliases_and_those_with_slashes_are_found(wire: Wire):
    found = {model.id: model for model in wire.client.models.list()}
    assert {f"on-{cloud}" for cloud in PLACES} | {"llama-3.1-8b", "gpt-4o", "my-org/llama:latest", LLAMA} <= set(found)
    assert {model.owned_by for model in found.values()} == {"arriero"}
    for name in ("on-vllm", "gpt-4o", "my-org/llama:latest", LLAMA):
        assert wire.client.models.retrieve(name) == found[name]
    answer = wire.client.chat.completions.create(
        model="my-org/llama:latest", messages=[{"role": "user", "content": "Hi"}], max_tokens=1
    )
    assert answer.model == "my-org/llama:latest"


def test_a_narrow_key_sees_only_its_own_models(wire: Wire):
    assert [model.id for model in wire.client.with_options(api_key="sk-narrow").models.list()] == ["on-vllm"]


def test_the_raw_list_has_a_request_id(wire: Wire):
    raw = wire.client.models.with_raw_response.list(extra_headers={"x-request-id": "list-1"})
    assert raw.headers["x-request-id"] == "list-1"
