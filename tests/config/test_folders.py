"""The cache folder, as set by the environment, and what counts as a checkpoint."""

from pathlib import Path

from toplora_train.config.folders import cache_folder, checkpoint_folders, checkpoint_name


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("TOPLORA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "toplora-train"


def test_a_relative_cache_folder_stays_the_same_when_the_working_folder_changes(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TOPLORA_CACHE", "cache")
    monkeypatch.chdir(tmp_path)
    assert cache_folder() == Path(tmp_path / "cache")


def test_copies_and_archives_beside_the_checkpoints_are_none(tmp_path):
    for step in (900, 123456789, 20):
        (tmp_path / checkpoint_name(step)).mkdir()
    for other in ("step-mine", "step-00000020.bak", "step-20", "selected", "step-²"):
        (tmp_path / other).mkdir()
    (tmp_path / "step-00000030.tar.gz").touch()
    (tmp_path / "step-00000040").touch()
    names = [path.name for path in checkpoint_folders(tmp_path)]
    assert names == ["step-00000020", "step-00000900", "step-123456789"]
