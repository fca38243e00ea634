"""Oracle's Generative AI: GENERIC chat, on demand or on a dedicated endpoint, signed; or its OpenAI-compatible path.

Rule 1. Every call is signed by the account's own identity; a refused one is renewed once, and the call sent once more.
Rule 2. Nothing of Oracle's form goes outward: answers, streams and errors leave here in OpenAI's.

Sources: oci 2.189.0 (service endpoint, operation `chat`, headers); docs.oracle.com openai-compatible-api, `api_key`."""

import importlib.util
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from gateway.account import Account
from gateway.errors import UpstreamError
from gateway.secret import Pem, Secret
from gateway.transport.client import Client, Response, request_head
from gateway.types import Call, Deployment, Observed, Provider, Reply
from providers import _oci_realms as realms
from providers._completion import Chunks
from providers._emulation import Fields, Whole, Word, answer, fields_of, plan, refusal
from providers._emulation import Identity as Name
from providers._oci_answer import Asked, completion, whole
from providers._oci_request import OFFERS, Place, Translated, translate
from providers._oci_signed import Payer, Signed
from providers._oci_stream import Translator
from providers.credentials.skew import CloudClock
from providers.openai import OpenAI, read_detail

if TYPE_CHECKING:
    from providers.credentials.oci import Identity, Source
    from providers.credentials.oci_tokens import InstancePrincipal

CHAT_PATH = "/20231130/actions/chat"
OPENAI_PATH = "/openai/v1"
INSTALL = "cryptography is not installed: pip install 'arriero[oci]'"

EMULATES = frozenset({"stream", "stream_tools", "n", "json_object", "json_schema"})
"""What can be stood in for where a model of Oracle's lacks it."""

Auth = Literal["api_key", "security_token", "instance_principal", "resource_principal", "oke_workload_identity"]
"""How to sign, in the words of Oracle's own command line (`oci --auth`)."""


class OCI(Account, frozen=True, kw_only=True):
    """`compartment` is the OCID of who pays. `endpoint` is the OCID of a dedicated endpoint; a deployment may also name
    one as its model. `realm` is for regions that are not known here.

    Signed by what `auth` says: a user's API key given here (`tenancy`, `user`, `key_file` or `key`) or in a `profile`
    of `config_file`, a session token of a profile, or who the instance, function or pod is. Without `auth`: the key
    given here, else OCI_RESOURCE_PRINCIPAL_* where that is set, else the profile. `metadata_url`, `federation_url` and
    `workload_url` are where tokens come from, if not from Oracle's own places.

    With `api_key`, a key of the Generative AI service, calls take its OpenAI-compatible path instead, unsigned.
    `emulates` are the features that the gateway may stand in for where a model lacks them."""

    title = "[Oracle OCI](docs/providers/oci.md)"
    credentials = "API key file, session, instance, resource or workload (`arriero[oci]`)"
    remark = "pictures are Llama 3.2's and 4's; embeddings have another API there, which is not spoken."
    api: Literal["generic", "openai"] = "generic"
    api_key: Secret | None = None
    compartment: str = ""
    realm: str | None = None
    endpoint: str | None = None
    auth: Auth | None = None
    tenancy: str | None = None
    user: str | None = None
    fingerprint: str | None = None
    key_file: str | None = None
    key: Pem | None = None
    pass_phrase: Secret | None = None
    config_file: str | None = None
    profile: str = "DEFAULT"
    metadata_url: str | None = None
    federation_url: str | None = None
    workload_url: str | None = None
    emulates: frozenset[str] = EMULATES

    usual_features = OFFERS

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := self.emulates - EMULATES:
            raise ValueError(f"'emulates' may hold {', '.join(sorted(EMULATES))}, not '{min(unknown)}'")
        if self.api_key is None and not self.compartment:
            raise ValueError(
                "'compartment' is missing: the OCID of the compartment that pays, such as "
                "ocid1.compartment.oc1..aaaa, or of the tenancy for its root"
            )
        if self.key and self.key_file:
            raise ValueError("needs either 'key' or 'key_file', not both")
        has_key = bool(self.key or self.key_file)
        if has_key and not (self.tenancy and self.user):
            raise ValueError("with a key of its own it needs 'tenancy' and 'user', too: the OCIDs whose key it is")
        if has_key and self.auth not in (None, "api_key"):
            raise ValueError(f"'auth' {self.auth} signs with a key of another place: leave out 'key' and 'key_file'")

    def base_url(self, region: str | None) -> str:
        """Where calls go, without the path of a call. Raises ValueError without a region."""
        return (self.url or f"https://inference.generativeai.{self._domain(region, 'oci.')}").rstrip("/")

    def auth_url(self, region: str | None) -> str:
        """Where an instance gets its tokens."""
        return (self.federation_url or f"https://auth.{self._domain(region, '')}").rstrip("/")

    def secrets(self) -> Sequence[str]:
        """What signs; a key of the service is its OpenAI account's."""
        return [secret.reveal() for secret in (self.key, self.pass_phrase) if secret]

    def _domain(self, region: str | None, below: str) -> str:
        if not region:
            raise ValueError("'region' is missing: such as us-chicago-1, here, in the profile, or as OCI_REGION")
        return f"{region}.{below}{realms.domain(region, self.realm)}"

    def open(self, name: str, clock: Callable[[], float] = time.monotonic) -> Provider:
        """Raises ValueError for what is missing or wrong about the key, its place or the region."""
        if self.api_key is not None:
            return self._openai(self.region or os.environ.get("OCI_REGION")).open(name, clock)
        if importlib.util.find_spec("cryptography") is None:
            raise ValueError(INSTALL)
        source, region = _signer(self, clock, os.environ)
        if self.api == "openai":
            return Signed(self._openai(region), name, clock, source, Payer(self.compartment, self.secrets))
        return Generic(self, source, self.base_url(region), clock)

    def _openai(self, region: str | None) -> OpenAI:
        base = self.base_url(region)
        return OpenAI(
            url=base if base.endswith("/v1") else base + OPENAI_PATH,
            api_key=self.api_key,
            region=self.region,
            trust=self.trust,
            timeouts=self.timeouts,
            max_connections=self.max_connections,
            proxy=self.proxy,
            ca_file=self.ca_file,
            stream_end=self.stream_end,
            trace_context=False,
        )


def _signer(account: OCI, clock: Callable[[], float], env: Mapping[str, str]) -> "tuple[Source, str | None]":
    """Who signs, and the region if that place says it. Imported late: `cryptography` is an extra."""
    from providers.credentials import oci as keys
    from providers.credentials import oci_tokens as tokens

    region = account.region or env.get("OCI_REGION") or None
    pass_phrase = account.pass_phrase.reveal() if account.pass_phrase else None
    auth = account.auth
    if account.key or account.key_file:
        reveal = account.key.reveal if account.key else None
        kept = keys.ApiKey(
            account.tenancy or "", account.user or "", account.fingerprint, account.key_file, reveal, pass_phrase
        )
        return keys.Files(kept, clock), region
    if auth == "resource_principal" or (auth is None and env.get("OCI_RESOURCE_PRINCIPAL_VERSION")):
        region = region or env.get("OCI_RESOURCE_PRINCIPAL_REGION")
        return _resource(account, region, clock, env), region
    if auth == "instance_principal":
        return _instance(account, region, clock, env), region
    if auth == "oke_workload_identity":
        region = region or env.get("OCI_RESOURCE_PRINCIPAL_REGION")
        return tokens.workload(account.workload_url, env, clock), region
    profile = keys.read_profile(account.config_file, account.profile, env)
    region = account.region or profile.fields.get("region") or region
    return keys.Files(profile.kept(session=auth == "security_token", pass_phrase=pass_phrase), clock), region


def _instance(
    account: OCI, region: str | None, clock: Callable[[], float], env: Mapping[str, str]
) -> "InstancePrincipal":
    from providers.credentials import oci_tokens as tokens

    metadata_url = account.metadata_url or env.get("OCI_METADATA_BASE_URL") or tokens.METADATA_URL
    return tokens.InstancePrincipal(metadata_url, account.auth_url(region), clock, reach=account.token_origin)


def _resource(account: OCI, region: str | None, clock: Callable[[], float], env: Mapping[str, str]) -> "Source":
    """A resource principal of the version that its variables say."""
    from providers.credentials import oci as keys
    from providers.credentials import oci_resource as resource

    version = env.get("OCI_RESOURCE_PRINCIPAL_VERSION")
    if version == "1.1":
        instance = _instance(account, region, clock, env)
        return resource.of_instance(env, instance, account.auth_url(region), clock, account.token_origin)
    if version in resource.VERSIONS:
        return resource.of_resource(env, clock, account.token_origin)
    return keys.Files(keys.resource_principal(env), clock)


class Generic:
    """The running side of an account: one connection pool, signed requests out, translated answers back."""

    poll_every_s = 0.0

    def __init__(
        self,
        account: OCI,
        source: "Source",
        base_url: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        from providers.credentials.oci import signed  # late: `cryptography` is an extra

        self.account, self.source, self.clock = account, source, clock
        self.wall = CloudClock(wall)
        self._signed = signed
        parts = urlsplit(base_url)
        self.host, self.target = parts.netloc, parts.path + CHAT_PATH
        self.client = Client(account.origin(base_url), clock)

    @property
    def secrets(self) -> Sequence[str]:
        return self.account.secrets()

    async def start(self) -> None:
        """Nothing to prepare: a token is fetched by the first call, and a source that is down holds up nobody else."""

    async def send(self, call: Call, deployment: Deployment) -> Reply:
        if call.endpoint != "chat/completions":
            raise refusal(f"{deployment.name} offers no /v1/{call.endpoint}", "model")
        todo = plan(call, deployment, _offers(call, deployment))
        trace = uuid.uuid5(uuid.NAMESPACE_URL, call.id).hex  # 32 digits, as Oracle wants them; one for all attempts
        native = Native(self, call, deployment, trace)
        if not todo.emulated and not todo.dropped:  # nearly all
            translated = native.translated(fields_of(call))
            response = await self.sent(call, translated.body, trace)
            return TranslatedReply(response, native.asked(translated), translated, self.account)
        asked = native.asked(None)
        return await answer(call, deployment, todo, native, Name(asked.id, asked.created, asked.model))

    async def sent(self, call: Call, body: bytes, trace: str) -> Response:
        """A good answer. A first 401 is tried again by Oracle's clock or another identity. Raises UpstreamError."""
        identity, signed_at = await self.source.get(), self.wall()
        response = await self.client.request(self._head(call, identity, body, trace), body, call.deadline)
        if response.status == 401 and (renewed := await self._renewed(response, identity, signed_at)) is not None:
            response = await self.client.request(self._head(call, renewed, body, trace), body, call.deadline)
        if response.status != 200:
            raise await _refused(response)
        return response

    async def _renewed(self, response: Response, identity: "Identity", signed_at: float) -> "Identity | None":
        """Who signs once more, if that may help; then the refusal is done with. Oracle does not say that it was the
        date, which may be five minutes off: its own tells."""
        if self.wall.learn(response.headers, signed_at):
            response.close()
            return identity
        try:
            renewed = await self.source.renew(identity)
        except BaseException:
            response.close()
            raise
        if renewed is not None:
            response.close()
        return renewed

    def _head(self, call: Call, identity: "Identity", body: bytes, trace: str) -> bytes:
        headers = [
            ("accept", "text/event-stream" if call.stream else "application/json"),
            ("accept-encoding", "identity"),
            ("user-agent", "arriero"),
            ("opc-request-id", trace.upper()),
            *self._signed(identity, self.target, self.host, body, self.wall()),
        ]
        return request_head("POST", self.target, self.host, headers, len(body))

    def observe(self, reply: Reply, now: float) -> Observed:
        """Oracle tells nothing of what is left of its limits."""
        return Observed()

    async def poll(self) -> Observed:
        return Observed()

    async def aclose(self) -> None:
        await self.source.aclose()
        await self.client.aclose()


def _offers(call: Call, deployment: Deployment) -> frozenset[str]:
    """What GENERIC chat carries for a call. Log probabilities are in whole answers only: oracle/langchain-oracle#310,
    where Llama 3.3 was asked in us-chicago-1."""
    whole_only = call.stream and "logprobs" in call.features & deployment.features
    return OFFERS - {"stream"} if whole_only else OFFERS


class Native:
    """One call at one deployment; the Native of _emulation.py, which stands in for what a model lacks."""

    def __init__(self, runtime: Generic, call: Call, deployment: Deployment, trace: str) -> None:
        self._runtime, self._call, self._deployment, self._trace = runtime, call, deployment, trace
        self.degraded: dict[str, Word] = {}
        self.first_byte_s = runtime.account.timeouts.first_byte_s

    def translated(self, fields: Fields) -> Translated:
        account = self._runtime.account
        return translate(fields, self._call, self._deployment, Place(account.compartment, account.endpoint))

    def asked(self, translated: Translated | None) -> Asked:
        """What the answer is told under."""
        deployment = self._deployment
        characters = translated.characters if translated and deployment.per_character else None
        top = translated.top_logprobs if translated else None
        created, model = int(self._runtime.wall()), deployment.adapter or deployment.model
        return Asked(f"chatcmpl-{self._trace}", created, model, self._call.choices, top, characters)

    async def whole(self, fields: Fields) -> Whole:
        translated = self.translated({name: raw for name, raw in fields.items() if not name.startswith("stream")})
        self.degraded |= translated.degraded
        response = await self._runtime.sent(self._call, translated.body, self._trace)
        try:
            body = whole(await response.read(), self.asked(translated), self.degraded)
        finally:
            response.close()
        return Whole(completion(body), response.headers)

    async def stream(self, fields: Fields, chunks: Chunks) -> tuple[Response, Translator]:
        """A stream with something left out of the request; nothing of it has to be changed on its way."""
        translated = self.translated(fields)
        self.degraded |= translated.degraded
        response = await self._runtime.sent(self._call, translated.body, self._trace)
        return response, Translator(self.asked(translated), self.degraded)


_traceable = re.compile(r"[A-Za-z0-9/_-]{1,120}").fullmatch


async def _refused(response: Response) -> UpstreamError:
    """The error answer as an error, with the id that Oracle's support asks for."""
    try:
        body = await response.read()
    except UpstreamError:
        body = b""
    finally:
        response.close()
    status, trace = response.status, response.headers.get("opc-request-id", "")
    text = f"answered {status}" + (f" (opc-request-id {trace})" if _traceable(trace) else "")
    return UpstreamError("status", text, status=status, detail=read_detail(body), headers=response.headers)


class TranslatedReply:
    """An answer of Oracle's, told in OpenAI's words. Until the first content it may be silent as a first byte may."""

    __slots__ = ("_asked", "_first_byte_s", "_response", "_translator", "degraded", "headers", "status")

    def __init__(self, response: Response, asked: Asked, translated: Translated, account: OCI) -> None:
        self._response, self._asked = response, asked
        self._first_byte_s = account.timeouts.first_byte_s
        self.degraded: Mapping[str, Word] = translated.degraded
        self._translator = Translator(asked, translated.degraded)
        self.status, self.headers = response.status, response.headers

    async def read(self) -> bytes:
        return whole(await self._response.read(), self._asked, self._translator.degraded)

    async def chunk(self) -> bytes:
        """The next events. What Oracle sends without content (padding, empty texts) is no sign of a beginning."""
        translator = self._translator
        while translator.fault is None:
            data = await self._response.chunk(self._first_byte_s or None)
            if not data:
                out = translator.end()
                if out or translator.fault is None:
                    return out
                break
            said = translator.said
            out = translator.feed(data)
            if out:
                return out
            if translator.said > said and not self._first_byte_s:
                self._response.alive()
        raise translator.fault

    def alive(self) -> None:
        self._first_byte_s = 0.0
        self._response.alive()

    def close(self) -> None:
        self._response.close()
