"""Sequences that are not in memory are read as lists are."""

import os
import pickle
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.conversation import Message
from toplora_train.data.on_disk import OnDisk, Selected
from toplora_train.data.rows import Row
from toplora_train.data.tables import ClassNumber

ITEMS = ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize(
    "sequence", [OnDisk(iter(ITEMS)), Selected("xeadbc", [2, 4, 5, 3, 1])], ids=["disk", "selected"]
)
def test_it_is_read_as_a_list(sequence):
    assert list(sequence) == ITEMS and len(sequence) == 5
    assert (sequence[0], sequence[-1]) == ("a", "e")
    for part in (slice(1, 4), slice(None, None, -2), slice(3, 99), slice(2, 2), slice(-2, None)):
        assert list(sequence[part]) == ITEMS[part]
    assert sequence == ITEMS and sequence[1:3] == ["b", "c"] and sequence != ITEMS[:4]
    assert sequence[1:][1:][0] == "c"
    for beyond in (5, -6):
        with pytest.raises(IndexError):
            sequence[beyond]


def test_a_row_is_read_as_it_was():
    number = ClassNumber(3)
    number.name = "three"
    calls = Message("assistant", "", tool_calls="[]", train=False)
    row = Row(
        "1", "a", "", "\u2028", "", messages=(calls,), reply=calls, place="f, line 1", image=b"0"
    )
    read, label = OnDisk([replace(row, options=(("a", "b"),)), number])
    assert vars(read) == vars(row) | {"options": (("a", "b"),)}
    assert (label, label.name) == (3, "three")


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "cache"))
    kept = OnDisk(range(1000))
    assert list((tmp_path / "cache").iterdir()) == [] and kept[999] == 999


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda **_: os.fdopen(os.open("/dev/full", 2), "wb", 0)
    )
    with pytest.raises(UserError, match=r"No space left.*make room there, or set TOPLORA_CACHE"):
        OnDisk(range(10))


@pytest.mark.parametrize("copied", [deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_a_copy_has_a_file_of_its_own(copied):
    kept = OnDisk(ITEMS)
    other = copied(kept)
    other.append("f")
    assert list(kept) == ITEMS and list(other) == [*ITEMS, "f"]
