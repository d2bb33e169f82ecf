"""The cache folder: its entries, its limit, and clearing by kind and age."""

import os
import time
from pathlib import Path

import pytest

from toplora_train.config.cache import (
    clear,
    find_entries,
    keep_within_limit,
    mark_used,
    parse_age,
    tokens_limit,
)
from toplora_train.config.errors import UserError

DAY = 24 * 3600


def put(path: Path, size: int, *, days_ago: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    then = time.time() - days_ago * DAY
    os.utime(path, (then, then))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path))
    put(tmp_path / "models" / "smollm2-0.1" / "model.safetensors", 300)
    put(tmp_path / "models" / ".writing-smollm2-0.1-ab" / "model.safetensors", 200)
    put(tmp_path / "tokens" / "aa", 10, days_ago=40)
    put(tmp_path / "tokens" / "bb", 20, days_ago=1)
    put(tmp_path / "llm-adapters" / "dataset" / "boolq" / "test.json", 7, days_ago=3)
    put(tmp_path / "mine.txt", 1)
    return tmp_path


def names(entries):
    return {str(entry.path.name): entry.size for entry in entries}


@pytest.mark.usefixtures("folder")
def test_entries_are_found_by_kind_with_their_sizes():
    found = find_entries()
    assert names(one for one in found if one.kind == "models") == {
        "smollm2-0.1": 300,
        ".writing-smollm2-0.1-ab": 200,
    }
    assert names(one for one in found if one.kind == "tokens") == {"bb": 20, "aa": 10}
    assert names(one for one in found if one.kind == "data") == {"test.json": 7}
    assert [one.path.name for one in found if one.left] == [".writing-smollm2-0.1-ab"]


def test_an_empty_cache_has_no_entries(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path / "nowhere"))
    assert find_entries() == []


def test_clearing_a_kind_leaves_everything_else(folder):
    assert names(clear(["tokens"])) == {"bb": 20, "aa": 10}
    assert names(clear(["models", "tokens", "data"])) == {
        "smollm2-0.1": 300,
        ".writing-smollm2-0.1-ab": 200,
        "test.json": 7,
    }
    assert (folder / "mine.txt").is_file()


def test_clearing_by_age_keeps_recently_used_entries(folder):
    assert names(clear(["tokens", "data"], older_than=2 * DAY)) == {"aa": 10, "test.json": 7}
    assert (folder / "tokens" / "bb").is_file()


@pytest.mark.usefixtures("folder")
def test_leftovers_are_cleared_whatever_their_age():
    assert names(clear(["models"], older_than=30 * DAY)) == {".writing-smollm2-0.1-ab": 200}


def test_the_limit_removes_the_least_recently_used(tmp_path):
    oldest = put(tmp_path / "a", 40, days_ago=3)
    older = put(tmp_path / "b", 40, days_ago=2)
    newest = put(tmp_path / "c", 40)
    mark_used(oldest)
    assert keep_within_limit(newest, 100) == [older]
    assert keep_within_limit(newest, 100) == []


def test_the_newest_entry_is_kept_even_above_the_limit(tmp_path):
    put(tmp_path / "a", 40, days_ago=3)
    newest = put(tmp_path / "c", 40)
    assert keep_within_limit(newest, 10) == [tmp_path / "a"]
    assert newest.is_file()


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500 * 2**20), ("10 GiB", 10 * 2**30), ("1.5g", 3 * 2**29), ("0", 0), ("7", 7)],
)
def test_a_limit_can_have_common_units(text, size, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", text)
    assert tokens_limit() == size


@pytest.mark.parametrize("text", ["much", "-1GB", "1 GB of it"])
def test_an_invalid_limit_is_rejected(text, monkeypatch):
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", text)
    with pytest.raises(UserError, match=f"TOPLORA_CACHE_LIMIT={text} is not a size"):
        tokens_limit()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 30 * DAY), ("12h", 12 * 3600), ("2w", 14 * DAY), ("90m", 5400)]
)
def test_an_age_is_a_number_and_a_unit(text, seconds):
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["30", "d", "a month", "-3d"])
def test_an_age_without_a_unit_is_rejected(text):
    with pytest.raises(UserError, match="is not an age"):
        parse_age(text)
