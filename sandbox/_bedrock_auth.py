"""Who may call the box's Bedrock: AWS Signature Version 4 over the raw request, API keys, and keys that expire.

Sources: AWS, "Signature Version 4 signing process"; the words of refusals as quoted in aws/aws-sdk-js#254, #573, #4545,
aws/aws-sdk-php#1780, nccgroup/ScoutSuite#1389; that of a wrong API key is from memory.
"""

import base64
import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from sandbox.site import Site
from sandbox.types import Refusal, Request

REGION = "us-west-2"
ACCOUNT_ID = "123456789012"
ACCESS_KEY_ID = "AKIASANDBOXEXAMPLE01"
SECRET_ACCESS_KEY = "sandbox/wJalrXUtnFEMI/K7MDENG+EXAMPLEKEY"  # noqa: S105  (a demo's)
API_KEY = "ABSKc2FuZGJveC1hcGkta2V5"
_MOST_SKEW_S = 300
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+),\s*SignedHeaders=(?P<names>[^,\s]+),"
    r"\s*Signature=(?P<signature>[0-9a-f]{64})"
)


def exception(name: str, status: int, message: str) -> Refusal:
    """A refusal in AWS's form: the name in a header, the message in the body."""
    where = "http://internal.amazon.com/coral/com.amazon.bedrock/"
    return Refusal(status, {"message": message}, {"x-amzn-errortype": f"{name}:{where}"})


class Keys(NamedTuple):
    """An access key pair. `token` is that of keys that expire."""

    access_key_id: str
    secret: str
    token: str = ""


def keys_of(token: str) -> Keys:
    """The key pair that belongs to a session token: made from it, so that nothing else has to be kept."""
    digest = hashlib.sha512(token.encode()).digest()
    return Keys(f"ASIA{digest[:8].hex().upper()}", base64.b64encode(digest[8:38]).decode(), token)


def authorize(request: Request, site: Site, service: str = "bedrock") -> None:
    """Raises Refusal unless the request carries the box's API key or a good signature by its keys for the service."""
    said = request.headers.get("authorization", "")
    if not said:
        raise exception("MissingAuthenticationTokenException", 403, "Missing Authentication Token")
    if said.startswith("Bearer ") and service == "bedrock":
        if not hmac.compare_digest(said.removeprefix("Bearer "), API_KEY):
            message = "Authentication failed: Please make sure your API Key is valid."
            raise exception("AccessDeniedException", 403, message)
        return
    found = _AUTHORIZATION.fullmatch(said)
    if found is None:
        message = "Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters."
        raise exception("IncompleteSignatureException", 403, message)
    keys = _keys(found["credential"].split("/")[0], request.headers.get("x-amz-security-token"), site)
    stamp = _stamp(request.headers, site)
    _check_scope(found["credential"].split("/")[1:], stamp, service)
    _check_names(found["names"].split(";"), request.headers)
    wanted = signature(request, found["names"].split(";"), f"{stamp}/{REGION}/{service}", keys.secret)
    if not hmac.compare_digest(wanted, found["signature"]):
        message = (
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )
        raise exception("InvalidSignatureException", 403, message)


def _keys(access_key_id: str, token: str | None, site: Site) -> Keys:
    """The keys that the request claims to be signed with."""
    if access_key_id == ACCESS_KEY_ID and token is None:
        return Keys(ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    if token is None or token not in site.tokens or keys_of(token).access_key_id != access_key_id:
        raise exception("UnrecognizedClientException", 403, "The security token included in the request is invalid.")
    if site.tokens[token] <= site.now():
        raise exception("ExpiredTokenException", 403, "The security token included in the request is expired")
    return keys_of(token)


def _stamp(headers: Mapping[str, str], site: Site) -> str:
    """The time of signing, at most five minutes from ours."""
    said = headers.get("x-amz-date", "")
    try:
        signed = calendar.timegm(time.strptime(said, "%Y%m%dT%H%M%SZ"))
    except ValueError as error:
        message = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        raise exception("IncompleteSignatureException", 403, message) from error
    now = site.wall()
    if signed < now - _MOST_SKEW_S:
        edge = f"is now earlier than {_iso(now - _MOST_SKEW_S)} ({_iso(now)} - 5 min.)"
        raise exception("InvalidSignatureException", 403, f"Signature expired: {said} {edge}")
    if signed > now + _MOST_SKEW_S:
        edge = f"is still later than {_iso(now + _MOST_SKEW_S)} ({_iso(now)} + 5 min.)"
        raise exception("InvalidSignatureException", 403, f"Signature not yet current: {said} {edge}")
    return said


def _iso(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _check_scope(scope: list[str], stamp: str, wanted: str) -> None:
    day, region, service, end = scope if len(scope) == 4 else ("", "", "", "")
    if day != stamp[:8]:
        message = (
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{day}' != "
            f"'{stamp[:8]}', from '{stamp}'."
        )
    elif region != REGION:
        message = "Credential should be scoped to a valid region. "
    elif service != wanted:
        message = f"Credential should be scoped to correct service: '{wanted}'. "
    elif end != "aws4_request":
        message = f"Credential should be scoped with a valid terminator: 'aws4_request', not '{end}'."
    else:
        return
    raise exception("InvalidSignatureException", 403, message)


def _check_names(names: list[str], headers: Mapping[str, str]) -> None:
    """The host and every x-amz header must be among the signed ones."""
    if "host" not in names:
        message = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization."
        raise exception("InvalidSignatureException", 403, message)
    unsigned = [name for name in headers if name.startswith("x-amz-") and name not in names]
    if unsigned or names != sorted(set(names)):
        message = "There were headers present in the request which were not signed"
        raise exception("AccessDeniedException", 403, message)


def signature(request: Request, names: list[str], stamped: str, secret: str) -> str:
    """The signature that this very request ought to carry; `stamped` is time, region and service."""
    stamp, _, where = stamped.partition("/")
    query = "&".join(sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in request.query.items()))
    lines = [f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in names]
    canonical = "\n".join(
        (
            request.method,
            quote(request.path, safe="/-_.~"),
            query,
            *lines,
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{where}/aws4_request"
    to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode("latin-1")).hexdigest()))
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
