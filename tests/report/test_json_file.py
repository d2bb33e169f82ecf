import json

import pytest

from toplora_train.report.json_file import plain_json, write_json_atomically, write_text_atomically


def test_written_json_reads_back(tmp_path):
    path = tmp_path / "new" / "report.json"
    write_json_atomically(path, {"a": (1, 2.5), "é": None})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5], "é": None}


def test_nan_and_infinity_become_null():
    assert plain_json({"a": [float("nan"), float("inf"), 1.0], 2: "x"}) == {
        "a": [None, None, 1.0],
        "2": "x",
    }


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    write_json_atomically(path, {"whole": True})
    with pytest.raises(TypeError):
        write_json_atomically(path, {"broken": object()})
    with pytest.raises(TypeError):
        write_text_atomically(path, b"broken")
    assert json.loads(path.read_text()) == {"whole": True}
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_name_that_is_not_utf8_is_written_and_read_back(tmp_path):
    write_json_atomically(tmp_path / "a.json", {"command": "x\udcff"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"command": "x\udcff"}
