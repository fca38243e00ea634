"""Tokens that the box hands out: the three clouds' token endpoints, as strict as theirs, and what they have issued.

Sources: google-auth 2.62.2 (assertion and form), RFC 7523; Databricks and Microsoft as litellm 1.109.1 speaks to them.
The words of Microsoft's and Databricks' refusals are from memory.
"""

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec

from sandbox.cloud import json_reply
from sandbox.demo_key import KEY_ID, signed_with_demo_key
from sandbox.site import Site
from sandbox.types import Json, Refusal, Reply, Request

GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"
GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
CLIENT_ID, CLIENT_SECRET = "sandbox-client", "sandbox-client-secret"
SERVICE_ACCOUNT = "arriero@sandbox-project.iam.gserviceaccount.com"
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_MOST_SKEW_S = 300
_MOST_LIFE_S = 3600


def issue(site: Site, prefix: str) -> tuple[str, int]:
    """A new token of the site and how many whole seconds it lives."""
    ttl_s = site.behaviour.token_ttl_s
    made = f"{prefix}{hashlib.blake2b(f'{site.name}{site.began_wall}{site.next_number()}'.encode()).hexdigest()[:40]}"
    site.tokens[made] = site.now() + ttl_s
    return made, max(1, int(ttl_s))


def is_issued(site: Site, token: str) -> bool:
    """Whether the site issued this token and it still lives."""
    return site.tokens.get(token, 0.0) > site.now()


def form_of(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode("latin-1"), keep_blank_values=True))


# ---------------------------------------------------------------------- Google
def google_token(request: Request, site: Site) -> Reply:
    """POST form with a signed assertion -> an access token."""
    form = form_of(request)
    if form.get("grant_type") != _JWT_BEARER:
        raise _google("unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")
    why = google_assertion_fault(form.get("assertion", ""), site.wall())
    if why:
        raise _google("invalid_grant", why)
    token, expires_in = issue(site, "ya29.")
    return json_reply({"access_token": token, "expires_in": expires_in, "token_type": "Bearer"})


def _google(error: str, why: str) -> Refusal:
    return Refusal(400, {"error": error, "error_description": why})


def google_assertion_fault(assertion: str, now: float) -> str:
    """What is wrong with the JWT at that time of day; "" when nothing is."""
    try:
        head, claims, signature = assertion.split(".")
        header, said = _json(head), _json(claims)
        signed = signed_with_demo_key(f"{head}.{claims}".encode(), _unbase64(signature))
    except (ValueError, msgspec.DecodeError):
        return "Invalid JWT: malformed"
    if header.get("alg") != "RS256" or header.get("kid") != KEY_ID or not signed:
        return "Invalid JWT Signature."
    if said.get("iss") != SERVICE_ACCOUNT:
        return "Invalid grant: account not found"
    if said.get("aud") != GOOGLE_AUDIENCE:
        return "Invalid JWT: Failed audience check."
    if GOOGLE_SCOPE not in str(said.get("scope", "")).split():
        return "Invalid OAuth scope or ID token audience provided."
    issued, expires = said.get("iat", 0), said.get("exp", 0)
    if issued > now + _MOST_SKEW_S or not now - _MOST_SKEW_S < expires <= issued + _MOST_LIFE_S:
        return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
    return ""


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _json(part: str) -> Mapping[str, Json]:
    found = msgspec.json.decode(_unbase64(part))
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


# ---------------------------------------------------------------------- Microsoft
def entra_token(request: Request, site: Site) -> Reply:
    """POST form with a client's secret -> a token for the scope of one of Azure's two audiences."""
    form = form_of(request)
    if form.get("grant_type") != "client_credentials":
        raise _entra(400, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")
    if form.get("client_id") != CLIENT_ID:
        raise _entra(400, "unauthorized_client", "AADSTS700016: Application was not found in the directory.")
    if form.get("client_secret") != CLIENT_SECRET:
        raise _entra(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
    if form.get("scope") not in ("https://cognitiveservices.azure.com/.default", "https://ml.azure.com/.default"):
        raise _entra(
            400, "invalid_scope", "AADSTS70011: The provided value for the input parameter 'scope' is not valid."
        )
    token, expires_in = issue(site, "eyJ.")
    value = {"token_type": "Bearer", "expires_in": expires_in, "ext_expires_in": expires_in, "access_token": token}
    return json_reply(value)


def _entra(status: int, error: str, why: str) -> Refusal:
    return Refusal(status, {"error": error, "error_description": why, "error_codes": [int(why[6 : why.index(":")])]})


# ---------------------------------------------------------------------- Databricks
def databricks_token(request: Request, site: Site) -> Reply:
    """POST form, the client's secret as Basic -> a token for all APIs."""
    basic = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    if request.headers.get("authorization") != f"Basic {basic}":
        raise Refusal(401, {"error": "invalid_client", "error_description": "Client authentication failed"})
    form = form_of(request)
    if form.get("grant_type") != "client_credentials" or form.get("scope") != "all-apis":
        why = "grant_type must be client_credentials and scope all-apis"
        raise Refusal(400, {"error": "invalid_request", "error_description": why})
    token, expires_in = issue(site, "eyJ.")
    return json_reply({"access_token": token, "scope": "all-apis", "token_type": "Bearer", "expires_in": expires_in})
