"""What the clouds' own tools keep in files: AWS's profiles, gcloud's login, Oracle's config. No secret is read out.

Sources: botocore's configuration files; google-auth `_cloud_sdk.py`; Oracle's command line (docs of each, 2026)."""

import configparser
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_AWS_SIGNS = ("aws_access_key_id", "role_arn", "sso_session", "sso_start_url", "credential_process", "login_session")
"""What a profile of AWS has one of, if it can give credentials."""


class Kept(NamedTuple):
    """A file that credentials can be had from, and what else it says: the region or the project."""

    path: str
    place: str | None = None


def aws(env: Mapping[str, str]) -> Kept | None:
    """The profile that AWS's tools would use, or None where no file has it."""
    profile = env.get("AWS_PROFILE") or "default"
    region, found = None, None
    for name, usual, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", profile),
        ("AWS_CONFIG_FILE", ".aws/config", profile if profile == "default" else f"profile {profile}"),
    ):
        for path in _file(env, name, usual):
            said = _section(path, section)
            region = said.get("region", region)
            found = found or (str(path) if any(sign in said for sign in _AWS_SIGNS) else None)
    return Kept(found, region) if found else None


def gcloud(env: Mapping[str, str]) -> Kept | None:
    """The login of `gcloud auth application-default login`, and the project that its quota is of."""
    for folder in _file(env, "CLOUDSDK_CONFIG", ".config/gcloud", folder=True):
        path = folder / "application_default_credentials.json"
        try:
            said = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        project = said.get("quota_project_id") if isinstance(said, dict) else None
        return Kept(str(path), project if isinstance(project, str) else None)
    return None


def oci(env: Mapping[str, str]) -> Kept | None:
    """Oracle's config file, if it has the profile DEFAULT."""
    for path in _file(env, "OCI_CONFIG_FILE", ".oci/config"):
        said = _section(path, "DEFAULT")
        if "tenancy" in said:
            return Kept(str(path), said.get("region"))
    return None


def _file(env: Mapping[str, str], name: str, usual: str, *, folder: bool = False) -> Iterator[Path]:
    """The file that a variable names, else the usual one below the home folder; nothing where it is not there."""
    home = env.get("HOME")
    path = Path(env[name]) if env.get(name) else Path(home) / usual if home else None
    if path is not None and (path.is_dir() if folder else path.is_file()):
        yield path


def _section(path: Path, name: str) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None, default_section="", strict=False)
    try:
        parser.read(path, encoding="utf-8")
        return parser[name]
    except (OSError, UnicodeDecodeError, configparser.Error, KeyError):
        return {}
