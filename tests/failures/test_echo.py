"""H2 and H3 at every cloud of the box: a cloud that sends our own request back, and one that is tried after another."""

import json
import re
from typing import Any

import pytest

from gateway.struck import struck
from sandbox.cloud import clouds
from tests.harness import Connection, Upstream, ask, chat, serving, upstream

OPEN = frozenset(
    """accept accept-encoding content-length content-type date host user-agent x-amz-date x-content-sha256 x-request-id
    opc-request-id traceparent""".split()  # noqa: SIM905
)
"""Headers of ours that are no secret."""
SPOKEN = frozenset(
    {"AWS4-HMAC-SHA256", "Credential", "SignedHeaders", "(request-target)", "rsa-sha256", "pass-through"}
)


async def echoing(connection: Connection) -> None:
    """Refuses each request with the caller's fault, in every shape of an error, with the whole request in its words."""
    while raw := await connection.request():
        words = raw.decode("latin-1")
        error = {"message": words, "type": words[:900], "param": words, "code": "invalid"}
        body = json.dumps({"message": words, "code": "InvalidParameter", "error": error}).encode()
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nx-amzn-errortype: ValidationException\r\n"
        await connection.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def failing(connection: Connection) -> None:
    while await connection.request():
        await connection.send(b"HTTP/1.1 500 Oh\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


def setting(name: str, cloud: Upstream) -> tuple[dict[str, Any], dict[str, Any]]:
    """An account of the cloud and one of its deployments, at that server."""
    found = clouds()[name]
    return found.account(cloud.url), {"account": name, "model": next(iter(found.deployments.values()))["model"]}


def posted(cloud: Upstream) -> bytes:
    """The one call that it got; vLLM is asked for its metrics, too."""
    (call,) = [request for request in cloud.requests if request.startswith(b"POST ")]
    return call


def private(raw: bytes) -> list[str]:
    """The parts of a request that nobody else may see: its credentials, whole and in pieces."""
    lines = raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    values = [value for name, _, value in (line.partition(": ") for line in lines) if name.lower() not in OPEN]
    words = {word for value in values for word in re.split(r"""[\s,="]+""", value) if len(word) > 9}
    return sorted(word for word in words - OPEN - SPOKEN if ";" not in word)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", clouds())
async def test_h3_a_cloud_that_sends_our_request_back_tells_nobody_our_credential(name: str, stream: bool) -> None:
    async with upstream(echoing) as cloud:
        account, deployment = setting(name, cloud)
        document = {"providers": {name: account}, "routes": {"r": {"deployments": [deployment], "policies": []}}}
        async with serving(document) as served:
            answer = await ask(served, chat(stream=stream))
            assert answer.status == 400
            assert "***" in answer.error["message"]
            ours = private(posted(cloud))
            assert ours
            for shown in (answer.body.decode(), json.dumps(served.log()), repr(served.decisions()), served.metrics()):
                assert [word for word in ours if word in shown] == []


@pytest.mark.parametrize("name", [name for name in clouds() if name != "vllm"])
async def test_h2_each_cloud_gets_its_own_credential_and_no_other(name: str) -> None:
    async with upstream(failing) as first, upstream(failing) as second, upstream(failing) as third:
        theirs, own = [setting("vllm", first), setting("vllm", third)], setting(name, second)
        accounts = {"before": {**theirs[0][0], "api_key": "key-of-before"}, name: own[0]}
        accounts["after"] = {**theirs[1][0], "api_key": "key-of-after"}
        around = [
            {**deployment, "account": at} for (_, deployment), at in zip(theirs, ("before", "after"), strict=True)
        ]
        route = {"deployments": [around[0], own[1], around[1]], "policies": []}
        async with serving({"providers": accounts, "routes": {"r": route}}) as served:
            assert (await ask(served, chat())).headers["x-arriero-attempts"] == "3"
        sent = [posted(cloud) for cloud in (first, second, third)]
        assert (b"key-of-before" in sent[0], b"key-of-after" in sent[2]) == (True, True)
        assert b"key-of" not in sent[1] + sent[0].replace(b"key-of-before", b"") + sent[2].replace(b"key-of-after", b"")
        for word in private(sent[1]):
            assert word.encode() not in sent[0] + sent[2]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("GET /\r\nAuthorization: AWS4-HMAC-SHA256 Credential=AKIA/x\r\nhost: a", "GET /\r\n***\r\nhost: a"),
        ('{"authorization": "Bearer abc"}', '{"***'),
        ("the token Bearer abcdefgh.ijk is bad", "the token *** is bad"),
        ("bearer of bad news", "bearer of bad news"),
        ("User: arn:aws:sts::123456789012:assumed-role/r is", "User: arn:aws:sts::***:assumed-role/r is"),
        ("key AKIAIOSFODNN7EXAMPLE is", "key *** is"),
        ("tenancy ocid1.tenancy.oc1..aaaa_b-c, user", "tenancy ***, user"),
        ('keyId="ocid1.a/ocid1.b/c", version', "***\", version"),
        ("ST$eyJ.x-y.z ended", "*** ended"),
        ("print 20:3b:97:13:55:1c:20:3b:97:13:55:1c:20:3b:97:13.", "print ***."),
        ("jwt eyJhbGciOiJSUzI1NiJ9.eyJ1.sig-_9 ya29.a-b_c.d", "jwt *** ***"),
        ("`projects/acme-1/locations/x` is", "`projects/***/locations/x` is"),
        ("/subscriptions/0000-1/resourceGroups", "/subscriptions/***/resourceGroups"),
        ("max_tokens must be at most 123456789012: no", "max_tokens must be at most 123456789012: no"),
        ("'signature' of the tool is not a schema", "'signature' of the tool is not a schema"),
        ("This model's maximum context length is 8192 tokens.", "This model's maximum context length is 8192 tokens."),
        ("my own secret-7 here", "my own *** here"),
    ],
)  # fmt: skip
def test_what_shows_by_its_form_that_it_is_ours_is_struck_and_nothing_else(said: str, left: str) -> None:
    assert struck(said, ["secret-7"]) == left
