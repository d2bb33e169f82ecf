"""Records have precise locations; errors in invalid files say where."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.files import read_file, read_folder

ROWS = [{"instruction": "one"}, {"instruction": "two\u2028lines", "output": "x"}]

DEEP = "[" * 100_000 + "]" * 100_000


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_json_lines_keep_order_and_line_numbers_despite_blank_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(ROWS[:1]) + "\n" + lines(ROWS[1:]))
    records = list(read_file(path))
    assert [record.fields for record in records] == ROWS
    assert [record.place for record in records] == [f"{path}, line 1", f"{path}, line 3"]
    assert [record.default_id for record in records] == ["a-1", "a-2"]


def test_rows_of_a_json_list_are_counted_from_one(tmp_path):
    path = write(tmp_path / "b.json", json.dumps(ROWS))
    records = list(read_file(path))
    assert [record.fields for record in records] == ROWS
    assert [record.place for record in records] == [f"{path}, row 1", f"{path}, row 2"]
    assert [record.default_id for record in records] == ["b-1", "b-2"]


def test_parquet_gives_the_rows_that_were_written(tmp_path):
    path = tmp_path / "c.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    records = list(read_file(path))
    assert records[0].fields == {"instruction": "one", "output": None} or records[0].fields == {
        "instruction": "one"
    }
    assert records[1].place == f"{path}, row 2"
    assert [record.default_id for record in records] == ["c-1", "c-2"]


def test_crlf_and_a_byte_order_mark_are_not_content(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"instruction": "one"}\r\n{"instruction": "two"}\r\n')
    assert [record.fields for record in read_file(path)] == [
        {"instruction": "one"},
        {"instruction": "two"},
    ]


@pytest.mark.parametrize("name", ["none.json", "none.jsonl", "none.parquet"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"{name}: no such file"):
        list(read_file(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", r"a\.jsonl: the file is empty"),
        ("a.jsonl", " \n\n", r"a\.jsonl: the file is empty"),
        ("a.json", "[]", r"a\.json: contains no rows"),
        ("a.json", '{"instruction": "x"}', r"a\.json: a \.json file must be a list of rows"),
        ("a.jsonl", '{"a": 1}\n\n{"a" 1}\n', r"a\.jsonl, line 3: invalid JSON \(Expecting ':'"),
        ("a.json", '[{"a": 1},\n {"a" 1}]', r"a\.json, line 2 column 7: invalid JSON"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r"a\.json, line 2 column 1: .*rename it to \.jsonl"),
        ("a.jsonl", '[\n{"a": 1}\n]', r"a\.jsonl, line 1: .*belongs in a \.json file"),
        ("a.jsonl", f'{{"a": {DEEP}}}', r"a\.jsonl, line 1: invalid JSON \(nested more than 100"),
        ("a.json", DEEP, r"a\.json: invalid JSON \(nested more than 100 deep\)"),
        (
            "a.jsonl",
            f'{{"answer": {"1" * 5000}}}',
            r"line 1: invalid JSON \(an integer of more than",
        ),
        ("a.jsonl", '{"a": 1}\n{"b": {"a": 1, "a": 2}}', r"line 2: .*the key 'a' occurs twice"),
        ("a.xlsx", "a,b\n", r"a\.xlsx: unknown file format .\.xlsx.; supported are \.json"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_the_location(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        list(read_file(write(tmp_path / name, text)))


@pytest.mark.parametrize("text", ['[{"instruction": "x"}]\n', '[\n{"instruction": "x"}\n]\n'])
def test_a_list_in_a_jsonl_file_is_an_error_with_a_remedy(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"a\.jsonl, line 1: .*; a list belongs in a \.json"):
        list(read_file(tmp_path / "a.jsonl"))


def test_a_file_in_another_encoding_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"instruction": "one"}\n{"instruction": "fünf"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not UTF-8"):
        list(read_file(path))


def test_an_invalid_parquet_file_is_an_error_that_names_it(tmp_path):
    path = write(tmp_path / "a.parquet", "no parquet")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet"):
        list(read_file(path))


def test_text_in_parquet_that_is_not_utf8_is_an_error_that_names_the_file(tmp_path):
    two_bytes = pa.array([0, 2], pa.int32()).buffers()[1]
    broken = pa.Array.from_buffers(pa.string(), 1, [None, two_bytes, pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"instruction": broken}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet \(.*UTF8"):
        list(read_file(tmp_path / "a.parquet"))


def test_a_column_in_parquet_whose_name_is_not_utf8_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"instruction": ["x"]}), path)
    path.write_bytes(path.read_bytes().replace(b"\x0binstruction", b"\x0b\x80nstruction"))
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet \(.*utf-8"):
        list(read_file(path))


def test_a_value_in_parquet_without_an_equal_in_python_is_an_error_that_names_the_file(tmp_path):
    far = pa.array([2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"instruction": ["x"], "when": far}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read as Parquet \(date value"):
        list(read_file(tmp_path / "a.parquet"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=r"cannot be read \(it is a pipe"):
        list(read_file(tmp_path / name))


def test_an_unreadable_file_is_an_error_that_says_why(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json: cannot be read \(it is a folder"):
        list(read_file(tmp_path / "a.json"))


def test_a_folder_is_read_sorted_by_name_and_other_files_are_ignored(tmp_path):
    write(tmp_path / "b.jsonl", lines(ROWS[1:]))
    write(tmp_path / "a.json", json.dumps(ROWS[:1]))
    write(tmp_path / "README.md", "rows")
    records = list(read_folder(tmp_path, split="train"))
    assert [record.fields for record in records] == ROWS
    assert [record.default_id for record in records] == ["a-1", "b-1"]


def test_a_folder_without_data_files_is_an_error_that_lists_the_formats(tmp_path):
    write(tmp_path / "README.md", "rows")
    with pytest.raises(
        UserError, match=r"no data files .*looked for \.json, \.jsonl, \.csv, \.tsv and \.parquet"
    ):
        list(read_folder(tmp_path, split="train"))


def test_files_named_after_splits_are_not_mixed(tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl", lines(ROWS[:1]))
    write(tmp_path / "train-00001-of-00002.jsonl", lines(ROWS[:1]))
    write(tmp_path / "test.jsonl", lines(ROWS[1:]))
    assert [record.fields for record in read_folder(tmp_path, split="train")] == ROWS[:1] * 2
    assert [record.fields for record in read_folder(tmp_path, split="test")] == ROWS[1:]
    with pytest.raises(UserError, match=r"no file of split 'validation' \(found: test, train\)"):
        list(read_folder(tmp_path, split="validation"))


def test_mixing_split_files_and_other_files_is_an_error(tmp_path):
    write(tmp_path / "test.jsonl", lines(ROWS))
    write(tmp_path / "extra.jsonl", lines(ROWS))
    with pytest.raises(UserError, match=r"extra\.jsonl is not named after a split"):
        list(read_folder(tmp_path, split="test"))


def test_a_line_of_fifty_megabytes_is_refused_at_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "a"}\n{"instruction": "' + "x" * 50_000_000 + '"}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 2: has 50,000,0\d\d characters"):
        list(read_file(path))
