"""Where AWS's own tools get keys that expire: the container's and the instance's endpoints, and STS for roles.

Sources: botocore 1.44.5 (ContainerMetadataFetcher, InstanceMetadataFetcher, service model sts); the answers are theirs.
"""

import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from sandbox._bedrock_auth import ACCOUNT_ID, authorize, keys_of
from sandbox.cloud import json_reply
from sandbox.oauth import issue
from sandbox.site import Site
from sandbox.types import Refusal, Reply, Request

ROLE = "arriero-sandbox"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT_ID}:role/{ROLE}"
CONTAINER_PATH = "/v2/credentials/sandbox"
CONTAINER_AUTHORIZATION = "sandbox-container-token"
EXTERNAL_ID = "sandbox-external-id"
WEB_IDENTITY = "sandbox-web-identity-token"
_METADATA = "/latest/meta-data/iam/security-credentials/"
_SESSION = "/latest/api/token"
_SESSION_TOKEN = "sandbox-metadata-session"  # noqa: S105  (a demo's)


def tokens(request: Request, site: Site) -> Reply | None:
    """The answer of an endpoint for keys; None for a path that is none. Raises Refusal."""
    found = _ROUTES.get((request.method, request.path))
    if found is None or (request.path == "/" and "form" not in request.headers.get("content-type", "")):
        return None
    return found(request, site)


def _issued(site: Site) -> Mapping[str, str]:
    """New keys in the form that both metadata endpoints have."""
    token, ttl_s = issue(site, "IQoJ")
    keys = keys_of(token)
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(site.wall() + ttl_s))
    pair = {"AccessKeyId": keys.access_key_id, "SecretAccessKey": keys.secret}
    return {**pair, "Token": token, "Expiration": expires}


def _container(request: Request, site: Site) -> Reply:
    if request.headers.get("authorization") != CONTAINER_AUTHORIZATION:
        raise Refusal(401, {"code": "AccessDenied", "message": "The authorization token is missing or wrong"})
    return json_reply({"RoleArn": ROLE_ARN, **_issued(site)})


def _session(request: Request, site: Site) -> Reply:
    """IMDSv2 begins with a session of its own."""
    if not request.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdecimal():
        raise Refusal(400, "Bad Request")
    return Reply(headers=[("content-type", "text/plain")], body=_SESSION_TOKEN.encode())


def _role(request: Request, site: Site) -> Reply:
    _in_session(request)
    return Reply(headers=[("content-type", "text/plain")], body=ROLE.encode())


def _instance(request: Request, site: Site) -> Reply:
    _in_session(request)
    return json_reply({"Code": "Success", "Type": "AWS-HMAC", **_issued(site)})


def _in_session(request: Request) -> None:
    if request.headers.get("x-aws-ec2-metadata-token") != _SESSION_TOKEN:
        raise Refusal(401, "Unauthorized")


def _sts_answer(request: Request, site: Site) -> Reply:
    """STS: AssumeRoleWithWebIdentity, as Kubernetes' service accounts use it, and AssumeRole, signed by who may."""
    said = dict(parse_qsl(request.body.decode("utf-8", "replace")))
    action = said.get("Action", "")
    if action not in ("AssumeRole", "AssumeRoleWithWebIdentity") or said.get("RoleArn") != ROLE_ARN:
        raise _sts("AccessDenied", f"Not authorized to perform sts:{action}")
    if action == "AssumeRole":
        _check_assuming(request, site, said)
    elif said.get("WebIdentityToken") != WEB_IDENTITY:
        raise _sts("InvalidIdentityToken", "No OpenIDConnect provider found in your account")
    found = _issued(site)
    credentials = "".join(f"<{name}>{found[key]}</{name}>" for name, key in _STS_NAMES)
    body = (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<{action}Result><Credentials>{credentials}</Credentials>"
        f"<AssumedRoleUser><Arn>{ROLE_ARN}/s</Arn><AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser>"
        f"</{action}Result></{action}Response>"
    )
    return Reply(headers=[("content-type", "text/xml")], body=body.encode())


def _check_assuming(request: Request, site: Site, said: Mapping[str, str]) -> None:
    """Raises Refusal unless a key of the box signed it for STS, and the role's external id is told."""
    try:
        authorize(request, site, "sts")
    except Refusal as refusal:
        raise _sts("SignatureDoesNotMatch", str(refusal.body)) from refusal
    if said.get("ExternalId") != EXTERNAL_ID or not said.get("RoleSessionName"):
        raise _sts("AccessDenied", "Not authorized to perform sts:AssumeRole")


_STS_NAMES = (
    ("AccessKeyId", "AccessKeyId"),
    ("SecretAccessKey", "SecretAccessKey"),
    ("SessionToken", "Token"),
    ("Expiration", "Expiration"),
)


def _sts(code: str, message: str) -> Refusal:
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    return Refusal(403 if code == "AccessDenied" else 400, body, {"content-type": "text/xml"})


_ROUTES: Mapping[tuple[str, str], Callable[[Request, Site], Reply]] = {
    ("GET", CONTAINER_PATH): _container,
    ("PUT", _SESSION): _session,
    ("GET", _METADATA): _role,
    ("GET", _METADATA + ROLE): _instance,
    ("POST", "/"): _sts_answer,
}
