from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.models.locate import locate_model
from toplora_train.models.tiny import tiny_model


def locate(path, package=None, builtin=None):
    return locate_model(path=path, revision=None, package=package, builtin=builtin)


def test_a_local_folder_is_taken_as_it_is(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    found = locate(str(tmp_path))
    assert found.folder == tmp_path.resolve()
    assert found.name == str(tmp_path.resolve())


def test_a_model_made_in_code_has_no_folder():
    assert locate(None, builtin="tiny").folder is None


def test_a_folder_that_is_no_model_is_said_so(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "just-a-word", "a/b/c"])
def test_what_is_neither_folder_nor_hub_id_is_said_so(path: str):
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        locate(path)


def test_a_hub_id_while_offline_names_the_remedies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE.*model\.path=FOLDER.*no-such-package"):
        locate("nobody/nothing", package="no_such_package")


def test_no_path_at_all_names_the_key():
    with pytest.raises(UserError, match=r"model\.path"):
        locate(None)
