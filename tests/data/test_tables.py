"""Tables are read as the tools that write them mean them; damaged ones name the file and row."""

import gzip
import io

import pandas
import pyarrow as pa
import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.files import read_file, read_folder

WILD = {"text": ["a\nb, c", 'say "x"', "NA", "ünï"], "label": ["007", "1", None, "0"]}


def fields(path):
    return [record.fields for record in read_file(path)]


@pytest.mark.parametrize(("name", "how"), [("a.csv", {}), ("a.tsv", {"sep": "\t"})])
def test_a_table_of_pandas_comes_back_as_text(tmp_path, name, how):
    table = pandas.DataFrame(WILD)
    table.to_csv(tmp_path / name, index=False, **how)
    table.to_csv(tmp_path / f"{name}.gz", index=False, **how)
    want = [dict(zip(WILD, row, strict=True)) for row in zip(*WILD.values(), strict=True)]
    assert fields(tmp_path / name) == want
    assert fields(tmp_path / f"{name}.gz") == want
    assert list(read_file(tmp_path / f"{name}.gz"))[1].default_id == "a-2"


def test_semicolons_are_found_and_an_index_column_does_no_harm(tmp_path):
    pandas.DataFrame({"a": ["x,y"], "b": ["z"]}).to_csv(tmp_path / "a.csv", sep=";")
    assert fields(tmp_path / "a.csv") == [{"": "0", "a": "x,y", "b": "z"}]


def test_zstandard_is_read(tmp_path):
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as stream:
        stream.write(b'{"text": "x"}\n')
    assert fields(tmp_path / "a.jsonl.zst") == [{"text": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv: .*Row #3: Expected 2 columns, got 3"),
        ("a.csv", b'a,b\n"open,2\n', r"a\.csv: cannot be read as CSV"),
        ("a.csv", b"a,a\n1,2\n", "two columns are named 'a'"),
        ("a.csv", b'a,b\n1,2\n"Great" film,2\n', r"a\.csv, line 3: a cell begins with a quotation"),
        ("a.tsv", b'a\tb\n"great\t1\nbad\t0\nawful "\t0\n', r"a\.tsv, line 4: a cell begins with"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"a,b\n", "contains no rows"),
        ("a.csv", "a\nx\nü\n".encode("latin-1"), r"a\.csv, line 3: not UTF-8"),
        ("a.csv.gz", b"a,b\n1,2\n", "cannot be read as gzip"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:-20], "cannot be read as gzip"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_file(tmp_path / name))


def test_quoted_cells_may_have_lines_and_doubled_marks(tmp_path):
    content = 'a,b\n"two\nlines, with a comma","say ""a"""\n6" wide,2\n'
    (tmp_path / "a.csv").write_text(content + "x" * 200_000 + ",3\n", encoding="utf-8")
    rows = [record.fields for record in read_file(tmp_path / "a.csv")]
    assert [row["a"] for row in rows[:2]] == ["two\nlines, with a comma", '6" wide']
    assert [row["b"] for row in rows] == ['say "a"', "2", "3"]


def test_folders_of_save_to_disk_are_read_by_split(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"instruction": ["a", "b"], "output": ["c", "d"]})
    one.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(tmp_path / "both")
    capsys.readouterr()  # its progress bars
    assert [record.fields for record in read_folder(tmp_path / "one", split="train")] == list(one)
    (test,) = read_folder(tmp_path / "both", split="test")
    assert (test.fields["instruction"], test.place.endswith("both/test, row 1")) == ("b", True)
    with pytest.raises(UserError, match=r"no split 'dev' \(found: train, test\)"):
        list(read_folder(tmp_path / "both", split="dev"))
    (tmp_path / "one" / "state.json").write_text('{"_data_files": [{"filename": "../x"}]}')
    with pytest.raises(UserError, match="data file 1 has no plain file name"):
        list(read_folder(tmp_path / "one", split="train"))


def test_the_class_names_of_datasets_are_kept(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    features = {"t": datasets.Value("string"), "l": datasets.ClassLabel(names=["no", "yes"])}
    one = datasets.Dataset.from_dict(
        {"t": ["a", "b", "c"], "l": [1, 0, -1]}, features=datasets.Features(features)
    )
    one.save_to_disk(tmp_path / "saved")
    one.to_parquet(tmp_path / "a.parquet")
    capsys.readouterr()  # its progress bars
    for read in (read_folder(tmp_path / "saved", split=""), read_file(tmp_path / "a.parquet")):
        records = list(read)
        assert [record.fields for record in records] == list(one)
        assert [record.fields["l"].name for record in records] == ["yes", "no", ""]


def test_a_cut_arrow_file_is_named(tmp_path):
    table, content = pa.table({"text": ["x"]}), io.BytesIO()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')
    (tmp_path / "a.arrow").write_bytes(content.getvalue()[:-150])
    with pytest.raises(UserError, match=r"a\.arrow: cannot be read as Arrow"):
        list(read_folder(tmp_path, split="train"))
