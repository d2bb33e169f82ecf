"""What a full disk would lose is kept elsewhere, and the sentence says where."""

import tempfile
from pathlib import Path

from toplora_train.config.rescue import rescue


def write(folder: Path) -> None:
    folder.mkdir()
    (folder / "weights").write_text("all of them")


def test_it_is_kept_in_a_new_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = {Path(rescue(write, "adapter").removeprefix("it is kept in ")) for _ in range(2)}
    assert len(places) == 2
    for place in places:
        assert place.is_relative_to(tmp_path) and place.name == "adapter"
        assert (place / "weights").read_text() == "all of them"


def test_it_is_said_if_that_fails_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert "could not be kept in" in rescue(write, "adapter")
