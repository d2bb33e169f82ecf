import errno
import json
import os

import pytest

from toplora_train.config.json_file import (
    AppendedLines,
    plain_json,
    write_json_atomically,
    write_text_atomically,
)


def test_written_json_reads_back(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json_atomically(path, {"a": (1, 2.5), "é": None})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5], "é": None}


def test_nan_and_infinity_become_null():
    assert plain_json({"a": [float("nan"), float("inf"), 1.0], 2: "x"}) == {
        "a": [None, None, 1.0],
        "2": "x",
    }


def full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_json_atomically(path, {"whole": True})
    with pytest.raises(TypeError):
        write_json_atomically(path, {"broken": object()})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomically(path, "broken")
    assert json.loads(path.read_text()) == {"whole": True}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_name_that_is_not_utf8_is_written_and_read_back(tmp_path):
    write_json_atomically(tmp_path / "a.json", {"command": "x\udcff"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"command": "x\udcff"}


def test_appended_lines_are_in_the_file_at_once_and_replace_what_was_there(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    for _ in range(2):
        with AppendedLines(path, [{"head": "ä"}]) as file:
            file.append_line({"b": 1})
            assert path.read_text(encoding="utf-8") == '{"head": "ä"}\n{"b": 1}\n'


def test_a_file_is_kept_where_its_next_first_lines_cannot_be_written(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"kept": 1}\n')
    with pytest.raises(TypeError):
        AppendedLines(path, [{"a": 1}, {"b": object()}])
    assert path.read_text() == '{"kept": 1}\n'
