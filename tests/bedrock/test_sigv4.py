"""Our signature is botocore's, bit by bit, and shows nothing of a secret."""

from urllib.parse import quote

import botocore.auth
import botocore.awsrequest
import botocore.credentials
from hypothesis import given
from hypothesis import strategies as st

from providers.credentials.aws import Bearer
from providers.credentials.sigv4 import Keys, Scope, signed_headers

printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
model_ids = st.text(st.sampled_from("abcXYZ019-_.:/~ "), min_size=1, max_size=60).filter(
    lambda text: text not in (".", "..")
)


def judged(keys: Keys, scope: Scope, host: str, path: str, headers: dict[str, str], body: bytes) -> str:
    """The authorization that botocore makes of the same request at the same time."""
    request = botocore.awsrequest.AWSRequest("POST", f"https://{host}{path}", data=body)
    for name in ("content-type", "x-amz-date", "x-amz-security-token"):
        if name in headers:
            request.headers[name] = headers[name]
    request.context["timestamp"] = headers["x-amz-date"]
    signer = botocore.auth.SigV4Auth(botocore.credentials.Credentials(*keys), scope.service, scope.region)
    to_sign = signer.string_to_sign(request, signer.canonical_request(request))
    signature = signer.signature(to_sign, request)
    names = signer.signed_headers(signer.headers_to_sign(request))
    credential = f"Credential={signer.scope(request)}"
    return f"AWS4-HMAC-SHA256 {credential}, SignedHeaders={names}, Signature={signature}"


@given(
    key=printable,
    secret=printable,
    token=st.none() | printable,
    model=model_ids,
    body=st.binary(max_size=200),
    wall=st.integers(0, 4_000_000_000),
    region=st.sampled_from(["us-east-1", "eu-central-2", "us-gov-west-1", "cn-north-1"]),
    base=st.sampled_from(["", "/aws/proxy", "/a%20b"]),
)
def test_it_signs_as_botocore_does(
    key: str, secret: str, token: str | None, model: str, body: bytes, wall: int, region: str, base: str
) -> None:
    keys, scope = Keys(key, secret, token), Scope(region, "bedrock")
    host, path = "bedrock-runtime.example:8443", f"{base}/model/{quote(model, safe='')}/converse"
    headers = dict(signed_headers(keys, scope, (host, path), body, wall + 0.5))
    assert headers["authorization"] == judged(keys, scope, host, path, headers, body)
    assert headers.get("x-amz-security-token") == token


def test_a_model_id_is_encoded_twice_in_what_is_signed() -> None:
    """`:` is %3A in the path that is sent and %253A in the one that is signed; botocore above agrees."""
    keys, scope = Keys("AKID", "secret"), Scope("us-east-1", "bedrock")
    once = dict(signed_headers(keys, scope, ("h", "/model/a%3A0/converse"), b"", 0))
    plain = dict(signed_headers(keys, scope, ("h", "/model/a:0/converse"), b"", 0))
    assert once["authorization"] != plain["authorization"]


def test_what_is_printed_holds_no_secret() -> None:
    assert "wJalr" not in repr(Keys("AKIAEXAMPLE", "wJalrXUtnFEMI", "wJalrToken"))
    assert "ABSK" not in repr(Bearer("ABSKsecret"))
    assert "wJalr" not in f"{Keys('AKIAEXAMPLE', 'wJalrXUtnFEMI')}"
