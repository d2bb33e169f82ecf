"""Writes are atomic, and leftovers of killed processes are found and removed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from toplora_train.config import aside
from toplora_train.config.aside import (
    folder_aside,
    leftovers,
    remove_leftovers,
    rescue,
    temporary_folder,
    write_aside,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from toplora_train.config.aside import folder_aside
with folder_aside(Path(sys.argv[1])) as folder:
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(target: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert ended.returncode == -signal.SIGKILL


def test_a_folder_is_complete_or_absent(tmp_path):
    with folder_aside(tmp_path / "model") as folder:
        (folder / "weights").write_text("w")
        assert not (tmp_path / "model").exists()
        folder.rename(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "w"
    with pytest.raises(ValueError, match="stop"), folder_aside(tmp_path / "other"):
        raise ValueError("stop")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_leftovers_are_removed_by_the_next_process_that_writes_there(tmp_path):
    killed_while_writing(tmp_path / "model")
    assert len(leftovers(tmp_path)) == 1
    with folder_aside(tmp_path / "model") as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_the_entry_of_a_live_process_is_not_removed(tmp_path):
    with folder_aside(tmp_path / "model") as first, folder_aside(tmp_path / "model") as second:
        assert first != second
        remove_leftovers(tmp_path)
        assert first.is_dir()
        assert second.is_dir()


def test_only_temporary_entries_are_leftovers(tmp_path):
    (tmp_path / ".mine").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / ".writing-model-1").symlink_to(tmp_path / "model")
    assert leftovers(tmp_path) == []


def test_a_file_is_replaced_and_nothing_else_remains(tmp_path):
    write_aside(tmp_path / "deep" / "tokens", b"old")
    write_aside(tmp_path / "deep" / "tokens", b"new")
    assert (tmp_path / "deep" / "tokens").read_bytes() == b"new"
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_without_locks_the_age_decides(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(aside.fcntl, "flock", no_locks)
    (tmp_path / ".writing-old").mkdir()
    (tmp_path / ".writing-new").mkdir()
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / ".writing-old", (two_days_ago, two_days_ago))
    assert [path.name for path in leftovers(tmp_path)] == [".writing-old"]


def test_a_temporary_folder_is_removed_however_its_process_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(aside.tempfile, "tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
    left = tmp_path / f"toplora-{os.getuid()}-killed"
    left.mkdir()
    with temporary_folder() as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


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
