"""AWS Bedrock through Converse and ConverseStream: OpenAI's chat in and out, signed with AWS keys or an API key.

Rule 1. What Converse does is in _bedrock_request.py and _bedrock_answer.py; what it lacks is in _emulation.py.
Rule 2. A credential that has expired early is fetched anew, a clock that is wrong set by AWS's, and the request sent
        once more; nothing else is repeated.

Sources: botocore 1.44.5 (service model, endpoints), docs.aws conversation-inference."""

import asyncio
import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

import msgspec

from gateway.account import Account, Guardrail
from gateway.errors import UpstreamError
from gateway.secret import Secret
from gateway.transport.client import Client, Response, request_head
from gateway.types import Call, Deployment, Observed, Provider, Reply
from providers import _bedrock_answer, _bedrock_errors
from providers._bedrock_request import OFFERS, converse, encoded
from providers._completion import Chunks
from providers._emulation import Fields, Identity, Translator, Whole, Word, answer, plan
from providers.credentials import aws
from providers.credentials.sigv4 import Keys, Scope, signed_headers
from providers.credentials.skew import CloudClock

SIGNING_NAME = "bedrock"
EMULATES = frozenset({"stream_tools", "n", "stop", "json_object", "json_schema", "parallel_tools"})
USUAL_FEATURES = frozenset({"chat", "stream", "tools", "stop"})
"""What weights are taken to do that the catalogue has no row for: what Converse does for any Llama."""
STREAM_TYPE = "application/vnd.amazon.eventstream"
START_S = 3.0
SUFFIXES = (
    ("cn-", "amazonaws.com.cn"),
    ("us-isob-", "sc2s.sgov.gov"),
    ("us-isof-", "csp.hci.ic.gov"),
    ("us-iso-", "c2s.ic.gov"),
    ("eu-isoe-", "cloud.adc-e.uk"),
    ("eusc-", "amazonaws.eu"),
    ("", "amazonaws.com"),
)
"""Where a region's hosts are, by how its name begins; botocore's partitions.json."""


_is_role = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}").fullmatch
Region = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{4,32}(?!\n)$", description="an AWS region such as us-east-1")]


class Bedrock(Account, frozen=True, kw_only=True):
    """Credentials: `api_key`, or `access_key_id` with `secret_access_key`; else as AWS's own tools find them. With
    `role_arn` (and perhaps `external_id`) the keys are those of a role that is taken on with them.

    `region` is AWS_REGION's unless said. `emulates` are the features that the gateway may stand in for."""

    title = "[AWS Bedrock](docs/providers/bedrock.md)"
    credentials = "AWS's own chain (`arriero[aws]`), keys, or a Bedrock API key"
    remark = (
        "of Llama; Claude and Nova can also be made to call a tool. Embeddings have another API there, which is not "
        "spoken."
    )
    on_disconnect: Literal["cancel", "drain"] = "drain"
    region: Region | None = None
    api_key: Secret | None = None
    access_key_id: Secret | None = None
    secret_access_key: Secret | None = None
    session_token: Secret | None = None
    profile: str | None = None
    role_arn: str | None = None
    external_id: str | None = None
    fips: bool = False
    guardrail: Guardrail | None = None
    emulates: frozenset[str] = EMULATES

    usual_features = USUAL_FEATURES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.region is None:
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            msgspec.structs.force_setattr(self, "region", region or None)
        if self.region is None:
            raise ValueError("'region' is missing: say it in the account, such as us-east-1, or set AWS_REGION")
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("'access_key_id' and 'secret_access_key' must be given together")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("'session_token' needs 'access_key_id' and 'secret_access_key'")
        if self.external_id is not None and self.role_arn is None:
            raise ValueError("'external_id' needs 'role_arn'")
        if self.role_arn is not None and self.api_key is not None:
            raise ValueError("needs one of 'api_key' and 'role_arn', not both")
        if self.role_arn is not None and not _is_role(self.role_arn):
            raise ValueError("'role_arn' must be a role's, such as arn:aws:iam::123456789012:role/llama")
        if unknown := self.emulates - EMULATES:
            raise ValueError(f"'emulates' may hold {', '.join(sorted(EMULATES))}, not '{min(unknown)}'")

    def base_url(self) -> str:
        if self.url is not None:
            return self.url.rstrip("/")
        suffix = next(suffix for start, suffix in SUFFIXES if (self.region or "").startswith(start))
        return f"https://bedrock-runtime{'-fips' if self.fips else ''}.{self.region}.{suffix}"

    def source(self, clock: Callable[[], float]) -> aws.Source:
        """Raises ValueError when AWS's chain or STS is needed and botocore is not installed."""
        if self.api_key is not None:
            return aws.bearer(self.api_key)
        own = None
        if self.access_key_id is not None and self.secret_access_key is not None:
            own = aws.said(self.access_key_id, self.secret_access_key, self.session_token)
        network = aws.Network(self.proxy, self.ca_file, self.fips)
        if self.role_arn is not None:
            role = aws.Role(self.role_arn, self.region or "", self.external_id, keys=own)
            return aws.Chain(self.profile, clock, network=network, role=role)
        if own is not None:
            return aws.Fixed(own)
        if self.profile is None and os.environ.get(aws.BEARER):
            return aws.bearer(Secret(f"env:{aws.BEARER}"))
        return aws.Chain(self.profile, clock, network=network)

    def open(self, name: str, clock: Callable[[], float] = time.monotonic) -> Provider:
        return Runtime(self, clock, self.source(clock))


class Runtime:
    """The running side of an account."""

    poll_every_s = 0.0

    def __init__(
        self,
        account: Bedrock,
        clock: Callable[[], float],
        source: aws.Source,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.account, self.clock, self.source = account, clock, source
        self.wall = CloudClock(wall)
        parts = urlsplit(account.base_url())
        self.host, self.base_path = parts.netloc, parts.path
        self.scope = Scope(account.region or "", SIGNING_NAME)
        self.client = Client(account.origin(account.base_url()), clock)

    @property
    def secrets(self) -> Sequence[str]:
        return self.source.secrets()

    async def start(self) -> None:
        """Looks for credentials, so that the first call need not; that there are none yet stops nobody."""
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(START_S):
                await self.source.get()

    async def send(self, call: Call, deployment: Deployment) -> Reply:
        identity = Identity(f"chatcmpl-{secrets.token_hex(12)}", int(self.wall()), call.model)
        native = Converse(self, call, deployment, identity)
        return await answer(call, deployment, plan(call, deployment, OFFERS), native, identity)

    async def post(self, target: str, accept: str, body: bytes, deadline: float) -> Response:
        """A good answer's head. Raises UpstreamError for any other."""
        credential, signed_at = await self.source.get(), self.wall()
        response = await self._request(target, accept, body, credential, deadline)
        if response.status == 200:
            return response
        refused = await _refused(response)
        other = await self._remedy(refused, credential, signed_at)
        if other is None:
            raise refused
        response = await self._request(target, accept, body, other, deadline)
        if response.status == 200:
            return response
        raise await _refused(response)

    async def _remedy(
        self, refused: UpstreamError, credential: aws.Credential, signed_at: float
    ) -> aws.Credential | None:
        """What to sign with once more, None where that would change nothing."""
        name = _bedrock_errors.name_of(refused)
        if name in _bedrock_errors.UNTIMELY and isinstance(credential, Keys):
            return credential if self.wall.learn(refused.headers, signed_at) else None
        return await self.source.renew(credential) if name in _bedrock_errors.EXPIRED else None

    async def _request(
        self, target: str, accept: str, body: bytes, credential: aws.Credential, deadline: float
    ) -> Response:
        path = self.base_path + target
        if isinstance(credential, Keys):
            signed = signed_headers(credential, self.scope, (self.host, path), body, self.wall())
        else:
            signed = [("content-type", "application/json"), ("authorization", f"Bearer {credential.token}")]
        headers = [*signed, ("accept", accept), ("accept-encoding", "identity"), ("user-agent", "arriero")]
        head = request_head("POST", path, self.host, headers, len(body))
        return await self.client.request(head, body, deadline)

    def observe(self, reply: Reply, now: float) -> Observed:
        """Bedrock tells nothing of what is left of a quota."""
        return Observed()

    async def poll(self) -> Observed:
        return Observed()

    async def aclose(self) -> None:
        await self.source.aclose()
        await self.client.aclose()


async def _refused(response: Response) -> UpstreamError:
    """The error answer as an error; a body that breaks off is as if it were empty."""
    try:
        body = await response.read()
    except UpstreamError:
        body = b""
    finally:
        response.close()
    return _bedrock_errors.refused(response.status, response.headers, body)


class Converse:
    """One call at one deployment; the Native of _emulation.py."""

    def __init__(self, runtime: Runtime, call: Call, deployment: Deployment, identity: Identity) -> None:
        self._runtime, self._call, self._identity = runtime, call, identity
        self._deployment = deployment
        self._path = f"/model/{quote(deployment.adapter or deployment.model, safe='')}"
        self.degraded: dict[str, Word] = {}
        self.first_byte_s = runtime.account.timeouts.first_byte_s

    async def whole(self, fields: Fields) -> Whole:
        body = encoded(self._request(fields, stream=False))
        response = await self._runtime.post(f"{self._path}/converse", "application/json", body, self._call.deadline)
        try:
            found = _bedrock_answer.completion(await response.read(), self._identity)
        finally:
            response.close()
        return Whole(found, response.headers)

    async def stream(self, fields: Fields, chunks: Chunks) -> tuple[Response, Translator]:
        body = encoded(self._request(fields, stream=True))
        response = await self._runtime.post(f"{self._path}/converse-stream", STREAM_TYPE, body, self._call.deadline)
        kind = response.headers.get("content-type", "")
        if STREAM_TYPE not in kind:
            response.close()
            raise UpstreamError("not_json", f"answered a stream with {kind.split(';')[0][:40]}, not with events")
        return response, _bedrock_answer.Stream(chunks)

    def _request(self, fields: Fields, *, stream: bool) -> dict[str, Any]:
        request = converse(fields, self._deployment, self.degraded)
        guardrail = self._deployment.guardrail
        if isinstance(guardrail, Guardrail):
            said = {"guardrailIdentifier": guardrail.id, "guardrailVersion": guardrail.version}
            request["guardrailConfig"] = {**said, "trace": guardrail.trace}
            if stream:
                request["guardrailConfig"]["streamProcessingMode"] = guardrail.stream
        return request
