"""Where a ledger is kept when the config does not say."""

import json
import urllib.request
from pathlib import Path

import pytest

from gateway.ledger.place import MEMORY, USUAL, storage
from tests import process

NOBODY = (
    "providers: {a: {type: openai, url: 'http://127.0.0.1:1'}}\nroutes: {r: {deployments: [{account: a, model: m}]}}\n"
)


def test_a_run_with_a_config_file_keeps_it_in_the_folder(tmp_path: Path) -> None:
    found = storage(str(tmp_path), lasting=True)
    assert (found.usual, found.folder, found.note) == (USUAL, tmp_path, "")


def test_a_run_without_a_config_file_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage(None, lasting=False).usual == MEMORY
    assert storage(str(tmp_path), lasting=False).usual == USUAL


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    found = storage(str(tmp_path / "none"), lasting=True)
    assert found.usual == MEMORY
    assert f"{tmp_path}/none cannot be written: costs are kept in memory" in found.note


def test_the_command_keeps_its_ledger_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(NOBODY)
    with process.serving(folder=tmp_path) as gateway:
        assert (tmp_path / "arriero.db").exists()
        with urllib.request.urlopen(f"{gateway.admin_url}/admin/spend") as answer:
            assert json.load(answer)["lines"] == []
    assert list((tmp_path / "arriero.journal").iterdir()) == []


def test_the_command_serves_where_it_can_keep_nothing(tmp_path: Path) -> None:
    (tmp_path / "arriero.yaml").write_text(NOBODY)
    with process.serving(folder=tmp_path, env={"ARRIERO_DATA": str(tmp_path / "none")}) as gateway:
        assert "cannot be written" in gateway.screen
        with urllib.request.urlopen(f"{gateway.admin_url}/admin/spend") as answer:
            assert json.load(answer)["total"]["count"] == 0
