"""Entra's access tokens as Azure's own tools find them: secret, certificate, workload identity, managed identity.

Rule 1. azure-identity is imported only where it is needed, and runs in a thread (docs/decisions/ say why).
Rule 2. What it raises is shown by name, place and AADSTS number, never by its text; what it logs goes nowhere, as with
        the libraries of the other clouds, unless somebody sets up Python's logging.
"""

import asyncio
import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.account import USUAL, Reach, Section
from gateway.secret import Secret
from providers.credentials.access_token import file_stamp, unavailable
from providers.credentials.session import session
from providers.credentials.tokens import Lease

INSTALL = "'entra' needs azure-identity: pip install 'arriero[azure]'"
PLACES = (
    "the environment (AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET or AZURE_CLIENT_CERTIFICATE_PATH), "
    "workload identity (AZURE_FEDERATED_TOKEN_FILE), managed identity, the logins of Azure's command lines"
)
FILES = ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_CERTIFICATE_PATH")
LIMITS: Mapping[str, Any] = {"connection_timeout": 5, "read_timeout": 10, "retry_total": 0, "process_timeout": 10}
"""Of azure-core, whose own are 300 s and ten retries: when to try again is tokens.py's to say."""
_CLOUDS = {".us": "us", ".cn": "cn"}
AUTHORITIES = {".azure.us": "login.microsoftonline.us", ".azure.cn": "login.chinacloudapi.cn"}
"""Where the sovereign clouds' hosts get their tokens: azure-identity's AzureAuthorityHosts. What is asked for there is
named after the cloud: learn.microsoft.com, azure-government, compare-azure-government-global-azure."""


logging.getLogger("azure").addHandler(logging.NullHandler())


class Entra(Section, frozen=True, kw_only=True):
    """A service principal by secret, certificate (PEM with its key) or federated token file; without any of them
    Azure's default chain, where `client_id` names a user-assigned managed identity.

    `authority` is the login host of a sovereign cloud; `scope` replaces the one that goes with the URL's form."""

    tenant: str | None = None
    client_id: str | None = None
    client_secret: Secret | None = None
    certificate_file: str | None = None
    token_file: str | None = None
    authority: str | None = None
    scope: str | None = None

    def __post_init__(self) -> None:
        ways = {"client_secret": self.client_secret, "certificate_file": self.certificate_file}
        said = [name for name, value in {**ways, "token_file": self.token_file}.items() if value is not None]
        if len(said) > 1:
            raise ValueError(f"needs one of '{said[0]}' and '{said[1]}', not both")
        for name, value in (("tenant", self.tenant), ("client_id", self.client_id)):
            if said and not value:
                raise ValueError(f"'{name}' is missing: it goes with '{said[0]}'")
        if self.authority is not None and (self.authority.startswith("http://") or not self.host()):
            raise ValueError("'authority' must be a login host, such as login.microsoftonline.us, spoken to over https")

    def beside(self, host: str) -> "Entra":
        """The same, at the login that goes with a host of Azure's, unless one is said here or in the environment."""
        found = next((name for end, name in AUTHORITIES.items() if host.endswith(end)), None)
        if found is None or self.authority is not None or os.environ.get("AZURE_AUTHORITY_HOST"):
            return self
        return msgspec.structs.replace(self, authority=found)

    def host(self) -> str:
        """The login host, "" for the usual one."""
        said = self.authority or ""
        return urlsplit(said if "://" in said else f"https://{said}").netloc

    def scope_for(self, serverless: bool) -> str:
        """What a token is asked for. That of ml in sovereign clouds is unchecked; `scope` overrules it.

        Source: azure-ai-inference 1.0.0b9 (ml.azure.com), MicrosoftDocs rest.md (cognitiveservices)."""
        if self.scope is not None:
            return self.scope
        login = self.host() or os.environ.get("AZURE_AUTHORITY_HOST", "").rstrip("/")
        ending = next((name for end, name in _CLOUDS.items() if login.endswith(end)), "com")
        return f"https://{'ml' if serverless else 'cognitiveservices'}.azure.{ending}/.default"


class Identity:
    """A Source of access_token.py."""

    def __init__(
        self, entra: Entra, serverless: bool, wall: Callable[[], float] = time.time, reach: Reach = USUAL
    ) -> None:
        """Raises ValueError when azure-identity is not installed."""
        if not _installed():
            raise ValueError(INSTALL)
        self._entra, self._wall, self._scope = entra, wall, entra.scope_for(serverless)
        self._reach = reach

    def stamp(self) -> object:
        entra = self._entra
        secret = entra.client_secret.reveal() if entra.client_secret else None
        files = (entra.certificate_file, entra.token_file, *map(os.environ.get, FILES))
        return secret, file_stamp(files)

    async def fetch(self) -> Lease[str]:
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> Lease[str]:
        """A new token. In a thread: blocks on files, the network and programs. Raises UpstreamError."""
        import azure.core.exceptions
        import azure.identity

        try:
            with session(self._reach) as opened, _credential(self._entra, opened) as credential:
                # made anew: an old one would give the token that it keeps
                found = credential.get_token(self._scope)
        except azure.identity.CredentialUnavailableError as error:
            raise unavailable(f"found no Entra credentials; looked at {self._where()}") from error
        except (azure.core.exceptions.AzureError, OSError, ValueError) as error:
            text = f"Entra gave no token for {self._where()} ({type(error).__name__}{_number(error)})"
            raise unavailable(text) from error
        return Lease(str(found.token), found.expires_on - self._wall())

    def _where(self) -> str:
        entra = self._entra
        if entra.client_secret is not None:
            return f"the secret of {entra.client_id}"
        file = entra.certificate_file or entra.token_file
        return f"{entra.client_id} with the file {file}" if file else PLACES

    async def aclose(self) -> None:
        """Nothing is held."""


def _installed() -> bool:
    try:
        return importlib.util.find_spec("azure.identity") is not None
    except ModuleNotFoundError:
        return False


def _credential(entra: Entra, opened: Any) -> Any:
    from azure import identity
    from azure.core.pipeline import transport

    known: Any = identity
    options: dict[str, Any] = {**LIMITS, "transport": transport.RequestsTransport(session=opened, session_owner=False)}
    if entra.authority is not None:  # it is the operator's word: nobody else is asked whether it is Microsoft's
        options |= {"authority": f"https://{entra.host()}", "disable_instance_discovery": True}
    if entra.client_secret is not None:
        secret = entra.client_secret.reveal()
        return known.ClientSecretCredential(entra.tenant, entra.client_id, secret, **options)
    if entra.certificate_file is not None:
        return known.CertificateCredential(entra.tenant, entra.client_id, entra.certificate_file, **options)
    if entra.token_file is not None:
        federated = {"tenant_id": entra.tenant, "client_id": entra.client_id, "token_file_path": entra.token_file}
        return known.WorkloadIdentityCredential(**federated, **options)
    if entra.client_id is not None:
        options |= {"managed_identity_client_id": entra.client_id, "workload_identity_client_id": entra.client_id}
    return known.DefaultAzureCredential(**options)


_find_number = re.compile(r"AADSTS\d{1,9}").search


def _number(error: Exception) -> str:
    """Microsoft's number of what is wrong, which its pages explain."""
    found = _find_number(str(error))
    return f" {found[0]}" if found else ""
