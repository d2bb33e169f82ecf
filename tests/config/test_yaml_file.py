"""A file of unknown origin is read within bounds."""

import os
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.yaml_file import read_bytes, read_text, read_yaml


def test_text_is_read_without_its_byte_order_mark(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffä: 1\n".encode())
    assert read_text(path) == "ä: 1\n"


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a regular file"):
        read_bytes(tmp_path / "pipe", limit=10)


def test_a_folder_a_device_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(UserError, match="not a regular file"):
        read_bytes(tmp_path, limit=10)
    with pytest.raises(UserError, match="/dev/zero: not a regular file"):
        read_bytes(Path("/dev/zero"), limit=10)
    with pytest.raises(UserError, match="no such file"):
        read_bytes(tmp_path / "none", limit=10)


def test_a_file_above_the_limit_is_not_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="has 11 bytes; at most 10 are read"):
        read_bytes(path, limit=10)
    path.write_bytes(b"x" * 10)
    assert read_bytes(path, limit=10) == b"x" * 10


def test_text_that_is_not_utf_8_is_named_with_its_line(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one\n\xff\xfe")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_text(path)


def test_yaml_that_expands_without_bounds_is_refused(tmp_path):
    path = tmp_path / "a.yaml"
    lines = ["a: &a [x, x]"]
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{after}: &{after} [{', '.join([f'*{before}'] * 10)}]")
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="aliases expand"):
        read_yaml(path)


def test_an_alias_that_stays_small_is_valid(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a [1, 2]\nb: *a\n")
    assert read_yaml(path) == "a: &a [1, 2]\nb: *a\n"


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 20_000])
def test_yaml_without_an_end_is_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="nested too deep, or contains itself"):
        read_yaml(path)


def test_invalid_yaml_is_named_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\nb: [\n")
    with pytest.raises(UserError, match=r"a\.yaml, line 3: not valid YAML"):
        read_yaml(path)
