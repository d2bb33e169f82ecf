from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from toplora_train.config.errors import UserError
from toplora_train.models.locate import locate_model
from toplora_train.models.tiny import tiny_model, tiny_tokenizer


def locate(path, package=None, builtin=None, revision=None):
    return locate_model(path=path, revision=revision, package=package, builtin=builtin)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of two or more shards in the hub's cache, and a package of the same weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--nobody--nothing"
    folder = model / "snapshots" / "c0ffee"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("c0ffee")
    tiny_model().save_pretrained(folder, max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(folder)
    packaged = tmp_path / "packaged"
    tiny_model().save_pretrained(packaged)
    monkeypatch.setattr("toplora_train.models.locate.packaged_checkpoint", lambda _: (packaged, ""))
    return folder


def test_a_complete_model_in_the_cache_is_used(cached: Path):
    assert locate("nobody/nothing", package="same_weights").folder == cached


@pytest.mark.parametrize(
    "missing", ["model-00002-of-*.safetensors", "model.safetensors.index.json", "tokenizer*"]
)
def test_an_interrupted_download_is_completed_and_hides_no_package(
    missing: str, cached: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = {file: file.read_bytes() for file in cached.glob(missing)}
    for file in kept:
        file.unlink()

    def download(*_: str, **_options) -> str:
        for file, content in kept.items():
            file.write_bytes(content)
        return str(cached)

    assert locate("nobody/nothing", package="same_weights").folder == cached.parents[2] / "packaged"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="not in the hub's cache, or only in part"):
        locate("nobody/nothing")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("toplora_train.models.locate.snapshot_download", download)
    assert locate("nobody/nothing").folder == cached
    assert all(file.is_file() for file in kept)


def test_the_same_weights_in_another_format_are_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny_model().save_pretrained(tmp_path)
    read = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json"]
    others = ["consolidated.safetensors", "original/consolidated.00.safetensors"]
    fetched: list[str] = []

    def download(_name: str, *, revision: str | None, **patterns) -> str:
        del revision
        fetched.extend(filter_repo_objects([*others, *read], **patterns))
        return str(tmp_path)

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("toplora_train.models.locate.snapshot_download", download)
    locate("nobody/nothing")
    assert fetched == read


def test_a_local_folder_is_used_in_place(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    found = locate(str(tmp_path))
    assert found.folder == tmp_path.resolve()
    assert found.name == str(tmp_path.resolve())


def test_the_built_in_model_has_no_folder():
    assert locate(None, builtin="tiny").folder is None


def test_a_folder_without_a_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "just-a-word", "a/b/c"])
def test_a_path_that_is_neither_folder_nor_hub_id_is_refused(path: str):
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        locate(path)


def test_a_hub_id_while_offline_names_the_remedies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE.*model\.path=FOLDER.*no-such-package"):
        locate("nobody/nothing", package="no_such_package")


def test_a_missing_path_names_the_key():
    with pytest.raises(UserError, match=r"model\.path"):
        locate(None)


@pytest.mark.parametrize("key", ["path", "revision", "package"])
def test_settings_that_do_not_apply_to_the_built_in_model_are_refused(key: str):
    settings = {"path": None, "revision": None, "package": None} | {key: "x"}
    with pytest.raises(UserError, match=rf"^model\.{key}=x does not apply to the built-in model"):
        locate_model(builtin="tiny", **settings)


def test_a_revision_of_a_folder_is_refused(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.revision=v2 applies to models on the hub"):
        locate(str(tmp_path), revision="v2")


def test_a_package_is_not_used_if_a_revision_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    tiny_model().save_pretrained(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        "toplora_train.models.locate.packaged_checkpoint", lambda _: (tmp_path, "1.0")
    )
    assert locate("nobody/nothing", package="some_package").folder == tmp_path
    with pytest.raises(UserError, match="not in the hub's cache"):
        locate("nobody/nothing", package="some_package", revision="v2")
