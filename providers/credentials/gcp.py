"""Google's access tokens as its own tools find them: key files, federation, gcloud's login, the metadata server.

Rule 1. google-auth is imported only where it is needed, and runs in a thread (docs/decisions/ say why).
Rule 2. What it raises is shown by name and place, never by its text.
"""

import asyncio
import datetime
import importlib.util
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.account import USUAL, Reach
from gateway.errors import UpstreamError
from providers.credentials.access_token import file_stamp, oauth_code, unavailable
from providers.credentials.session import session
from providers.credentials.tokens import Lease

INSTALL = "without 'token' Google's credentials need google-auth: pip install 'arriero[gcp]'"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
PLACES = f"{VARIABLE}, gcloud's application_default_credentials.json, the metadata server"
REQUEST_S = 8.0
"""The most that one request to a token endpoint may take; google-auth's own limit is 120 s."""


class Google:
    """A Source of access_token.py: a credentials file of any kind that Google issues, or the chain without one."""

    def __init__(self, file: str | None, wall: Callable[[], float] = time.time, reach: Reach = USUAL) -> None:
        """Raises ValueError when google-auth is not installed."""
        if not _installed():
            raise ValueError(INSTALL)
        self._file, self._wall, self._reach = file, wall, reach

    def _path(self) -> str | None:
        """The file that counts; None where the chain goes past files."""
        said = self._file or os.environ.get(VARIABLE)
        if said:
            return os.path.expanduser(said)
        usual = _gcloud_file()
        return str(usual) if usual.is_file() else None

    def stamp(self) -> object:
        return file_stamp([self._path()])

    async def fetch(self) -> Lease[str]:
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> Lease[str]:
        """A new token. In a thread: blocks on files and the network. Raises UpstreamError."""
        import google.auth.exceptions

        path = self._path()
        with session(self._reach) as opened:
            request = _limited(opened)
            try:
                credentials = _load(path) if path else _from_metadata(request)
            except (google.auth.exceptions.GoogleAuthError, OSError, ValueError, KeyError, TypeError) as error:
                where = f"cannot use the file {path} ({type(error).__name__})" if path else f"looked at {PLACES}"
                raise unavailable(f"found no Google credentials: {where}") from error
            try:
                credentials.refresh(request)
            except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
                raise _failed(path, error) from error
        ends = credentials.expiry.replace(tzinfo=datetime.UTC).timestamp() if credentials.expiry else None
        return Lease(str(credentials.token), None if ends is None else ends - self._wall())

    async def aclose(self) -> None:
        """Nothing is held."""


def _installed() -> bool:
    try:
        return bool(importlib.util.find_spec("google.auth") and importlib.util.find_spec("requests"))
    except ModuleNotFoundError:
        return False


def _gcloud_file() -> Path:
    folder = os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud"
    return Path(folder).expanduser() / "application_default_credentials.json"


def _load(path: str) -> Any:
    """A file's credentials, without a token yet.

    By Google's classes for each type, as it recommends: the general `load_credentials_from_file` also asks another
    service for a federated project's name, and fails where that service does."""
    info = json.loads(Path(path).read_bytes())
    load = _KINDS.get(str(info.get("type"))) if isinstance(info, dict) else None
    if load is None:
        raise ValueError("an unknown type of credentials")
    return load(info)


def _service_account(info: dict[str, Any]) -> Any:
    from google.oauth2 import service_account

    found: Any = service_account.Credentials
    return found.from_service_account_info(info, scopes=[SCOPE])


def _authorized_user(info: dict[str, Any]) -> Any:
    from google.oauth2 import credentials

    found: Any = credentials.Credentials
    return found.from_authorized_user_info(info, scopes=[SCOPE])


def _external_account(info: dict[str, Any]) -> Any:
    """Workload identity federation: a subject from AWS, from a program, or from a file or URL."""
    from google.auth import aws, identity_pool, pluggable

    found: Any = identity_pool.Credentials
    if info.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        found = aws.Credentials
    elif "executable" in info.get("credential_source", {}):
        found = pluggable.Credentials
    return found.from_info(info, scopes=[SCOPE])


def _workforce_user(info: dict[str, Any]) -> Any:
    from google.auth import external_account_authorized_user

    found: Any = external_account_authorized_user.Credentials
    return found.from_info(info)


def _impersonated(info: dict[str, Any]) -> Any:
    from google.auth import impersonated_credentials

    found: Any = impersonated_credentials.Credentials
    return found.from_impersonated_service_account_info(info, scopes=[SCOPE])


_KINDS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "service_account": _service_account,
    "authorized_user": _authorized_user,
    "external_account": _external_account,
    "external_account_authorized_user": _workforce_user,
    "impersonated_service_account": _impersonated,
}


def _from_metadata(request: Any) -> Any:
    import google.auth

    return google.auth.default(scopes=[SCOPE], request=request)[0]


def _limited(opened: Any) -> Any:
    """Google's transport over requests, which its part for the metadata server needs anyhow, with a limit of ours."""
    import google.auth.transport.requests

    known: Any = google.auth.transport.requests
    request = known.Request(session=opened)

    def limited(*args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        return request(*args, timeout=min(timeout or REQUEST_S, REQUEST_S), **kwargs)

    return limited


def _failed(path: str | None, error: Exception) -> UpstreamError:
    """What may be said of a failure: whose it is, its kind, and OAuth's word for it."""
    said = next((word for found in error.args if (word := oauth_code(found))), "")
    where = f"the file {path}" if path else "the metadata server"
    return unavailable(f"Google gave no token for {where} ({type(error).__name__}{said})")
