"""The cache folder, as set by the environment."""

from pathlib import Path

from toplora_train.config.folders import cache_folder


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
