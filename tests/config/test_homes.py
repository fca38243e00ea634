"""A config made from the files that the clouds' own tools keep in the home folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.config.test_environment import find

KEYS = "aws_access_key_id = AKID\naws_secret_access_key = the-secret-1\n"
LOGIN = {"type": "authorized_user", "client_id": "i", "client_secret": "the-secret-2", "refresh_token": "the-secret-3"}
ORACLE = "tenancy=ocid1.tenancy\nuser=ocid1.user\nkey_file=/k\nfingerprint=f\nregion=us-chicago-1\n"


def put(home: Path, name: str, text: str) -> None:
    (home / name).parent.mkdir(parents=True, exist_ok=True)
    (home / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "env", "made"),
    [
        (
            {".aws/credentials": f"[default]\n{KEYS}", ".aws/config": "[default]\nregion = eu-west-3\n"},
            {},
            {"type": "bedrock", "region": "eu-west-3"},
        ),
        ({".aws/credentials": f"[default]\n{KEYS}"}, {"AWS_REGION": "r"}, {"type": "bedrock", "region": "r"}),
        (
            {".aws/config": "[profile dev]\nsso_session = s\nregion = us-west-2\n"},
            {"AWS_PROFILE": "dev"},
            {"type": "bedrock", "region": "us-west-2", "profile": "dev"},
        ),
        (
            {"elsewhere": f"[default]\nregion = us-east-2\n{KEYS}"},
            {"AWS_SHARED_CREDENTIALS_FILE": "{home}/elsewhere"},
            {"type": "bedrock", "region": "us-east-2"},
        ),
        (
            {".config/gcloud/application_default_credentials.json": json.dumps({**LOGIN, "quota_project_id": "q"})},
            {},
            {"type": "vertex", "project": "q", "location": "us-central1"},
        ),
        (
            {"cloudsdk/application_default_credentials.json": json.dumps(LOGIN)},
            {"CLOUDSDK_CONFIG": "{home}/cloudsdk", "GOOGLE_CLOUD_PROJECT": "p"},
            {"type": "vertex", "project": "p", "location": "us-central1"},
        ),
        (
            {".oci/config": f"[DEFAULT]\n{ORACLE}"},
            {"OCI_COMPARTMENT_ID": "c"},
            {"type": "oci", "compartment": "c"},
        ),
    ],
)
def test_a_file_makes_the_account(tmp_path: Path, files: dict[str, str], env: dict[str, str], made: dict[str, Any]):
    for name, text in files.items():
        put(tmp_path, name, text)
    document = find(HOME=str(tmp_path), **{n: v.format(home=tmp_path) for n, v in env.items()}).document
    assert document is not None
    assert list(document["providers"].values()) == [made]


@pytest.mark.parametrize(
    ("file", "text", "note"),
    [
        (".aws/credentials", f"[default]\n{KEYS}", "bedrock is left out: {path} is there but AWS_REGION is not"),
        (
            ".config/gcloud/application_default_credentials.json",
            json.dumps(LOGIN),
            "vertex is left out: {path} is there but GOOGLE_CLOUD_PROJECT is not",
        ),
        (".oci/config", f"[DEFAULT]\n{ORACLE}", "oci is left out: {path} is there but OCI_COMPARTMENT_ID is not"),
    ],
)
def test_a_file_alone_that_is_not_enough_is_said(tmp_path: Path, file: str, text: str, note: str):
    put(tmp_path, file, text)
    found = find(HOME=str(tmp_path))
    assert found.document is None
    assert list(found.notes) == [note.format(path=tmp_path / file)]
    assert "the-secret" not in str(found)


@pytest.mark.parametrize("text", ["", "nonsense", "[other]\nx = 1\n", "\x00\xff", "[default]\nregion = r\n", "[]", "{"])
def test_a_file_that_holds_no_credentials_is_as_if_it_were_not_there(tmp_path: Path, text: str):
    for name in (".aws/credentials", ".aws/config", ".oci/config"):
        put(tmp_path, name, text)
    found = find(HOME=str(tmp_path))
    assert (found.document, list(found.notes)) == (None, [])
