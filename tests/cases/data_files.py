"""Files of rows: training and test rows, labels, and the folders that hold them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tests.cases.case import (
    DEEP,
    LONG_INTEGER,
    Case,
    Make,
    both,
    directory,
    fifo,
    nothing,
    symlink,
    written,
)

TRAIN = ("recipe=smoke", "dataset=jsonl", "evaluation.base=false", "output_dir=run")
GOOD = {"instruction": "Is 3 > 2?", "output": "Yes."}
GOOD_LINES = "".join(json.dumps(GOOD | {"instruction": f"Is {n} > 2?"}) + "\n" for n in range(20))


def rows(name: str, content: bytes | str, line: str, *, file: str = "rows.jsonl") -> Case:
    """Training rows."""
    words = (*TRAIN, f"dataset.train={file}")
    return Case(f"data: {file}: {name}", "train", words, line, written(file, content))


def row(name: str, fields: object, line: str) -> Case:
    """Good rows and then, in line 21, this one."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    return rows(name, f"{GOOD_LINES}{text}\n", line)


def test_row(name: str, fields: object, line: str) -> Case:
    """Good training rows, and test rows of which the second is this one."""
    good = json.dumps({"instruction": "2+2?", "answer": "4"})
    make = both(
        written("rows.jsonl", GOOD_LINES),
        written("test.jsonl", f"{good}\n{json.dumps(fields)}\n"),
    )
    words = (*TRAIN, "dataset.train=rows.jsonl", "dataset.test=test.jsonl")
    return Case(f"data: test row: {name}", "train", words, line, make)


def place(
    name: str, make: Make, line: str, *, file: str = "rows.jsonl", more: Sequence[str] = ()
) -> Case:
    """Something that is not a file of rows at its place."""
    return Case(f"data: {name}", "train", (*TRAIN, f"dataset.train={file}", *more), line, make)


def parquet(**columns: object) -> bytes:
    """A parquet file of these columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


GOOD_PARQUET = parquet(instruction=["a"] * 20, output=["b"] * 20)
BAD_UTF8 = parquet(
    instruction=pa.array([b"\xff\xfe"] * 20, pa.binary()).view(pa.string()), output=["b"] * 20
)
LINES = (
    rows("binary", bytes(range(256)) * 16, "rows.jsonl"),
    rows("UTF-16", GOOD_LINES.encode("utf-16"), "rows.jsonl, line 1: not UTF-8"),
    rows(
        "Latin-1",
        GOOD_LINES.replace("Yes", "Sí").encode("latin-1").replace(b"\\u00ed", b"\xed"),
        "line 1: not UTF-8",
    ),
    rows("empty", "", "rows.jsonl: the file is empty"),
    rows("blank lines", "\n\n  \n", "rows.jsonl"),
    rows("null bytes", b"\x00" * 4096, "rows.jsonl"),
    rows(
        "one line of 50 MB",
        '{"instruction": "' + "x" * 50_000_000 + '"}',
        "rows.jsonl, line 1: has",
    ),
    rows("one row for 20", json.dumps([GOOD] * 20), "is a list, not one row"),
    rows("a page of HTML", "<!DOCTYPE html>\n<html></html>\n", "rows.jsonl, line 1: invalid JSON"),
    rows("a pickle", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n", "rows.jsonl"),
    row("nested 100,000 deep", DEEP, "rows.jsonl, line 21"),
    row("an object nested deep", '{"a":' * 100_000 + "1" + "}" * 100_000, "rows.jsonl, line 21"),
    row("an integer of 5,000 digits", f'{{"instruction": {LONG_INTEGER}}}', "rows.jsonl, line 21"),
    row(
        "a key twice",
        '{"instruction": "a", "instruction": "b", "output": "c"}',
        "rows.jsonl, line 21",
    ),
    row("cut", '{"instruction": "a", "outp', "rows.jsonl, line 21"),
    row("single quotes", "{'instruction': 'a', 'output': 'b'}", "rows.jsonl, line 21"),
    row("two rows in a line", json.dumps(GOOD) * 2, "rows.jsonl, line 21"),
    row("a list", [1], "rows.jsonl, line 21"),
    row("a number", 7, "rows.jsonl, line 21"),
    row("a text", '"words"', "rows.jsonl, line 21"),
    row("null", None, "rows.jsonl, line 21"),
    row("no keys", {}, "rows.jsonl, line 21"),
    row("no output", {"instruction": "a"}, "rows.jsonl, line 21"),
    row("no instruction", {"output": "a"}, "rows.jsonl, line 21"),
    row("an empty instruction", {"instruction": "", "output": "a"}, "rows.jsonl, line 21"),
    row("an empty output", {"instruction": "a", "output": ""}, "rows.jsonl, line 21"),
    row("a number as instruction", {"instruction": 7, "output": "a"}, "rows.jsonl, line 21"),
    row("a list as output", {"instruction": "a", "output": ["b"]}, "rows.jsonl, line 21"),
    row("true as input", GOOD | {"input": True}, "rows.jsonl, line 21"),
    row("an object as id", GOOD | {"id": {}}, "rows.jsonl, line 21"),
    row("a misspelt key", {"instruction": "a", "ouput": "x"}, "rows.jsonl, line 21"),
    row("half a surrogate pair", '{"instruction": "\\ud800", "output": "a"}', "surrogate"),
    row("longer than max_length", {"instruction": "x" * 5000, "output": "a"}, "max_length"),
    row("an escape sequence in a key", {"\x1b[2Jx": 1, "instruction": "a"}, "rows.jsonl, line 21"),
    row(
        "messages and an instruction",
        GOOD | {"messages": [{"role": "user", "content": "a"}]},
        "line 21: has 'messages'",
    ),
    row("messages is a text", {"messages": "hello"}, "rows.jsonl, line 21"),
    row("messages is empty", {"messages": []}, "rows.jsonl, line 21"),
    row("a message is a text", {"messages": ["hello"]}, "rows.jsonl, line 21"),
    row("a message without content", {"messages": [{"role": "user"}]}, "rows.jsonl, line 21"),
    row(
        "a message whose content is null",
        {"messages": [{"role": "user", "content": None}]},
        "rows.jsonl, line 21",
    ),
    row(
        "an unknown role",
        {"messages": [{"role": "root", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "rows.jsonl, line 21",
    ),
    row("nobody answers", {"messages": [{"role": "user", "content": "a"}]}, "rows.jsonl, line 21"),
)
DOCUMENTS = (
    rows("an object", json.dumps(GOOD), "must be a list of rows", file="rows.json"),
    rows("an empty list", "[]", "contains no rows", file="rows.json"),
    rows("lines", GOOD_LINES, "rows.json", file="rows.json"),
    rows("nested 100,000 deep", DEEP, "rows.json", file="rows.json"),
    rows("an integer of 5,000 digits", f"[{LONG_INTEGER}]", "rows.json", file="rows.json"),
    rows("cut", json.dumps([GOOD] * 20)[:-9], "rows.json", file="rows.json"),
    rows("UTF-16", json.dumps([GOOD]).encode("utf-16"), "not UTF-8", file="rows.json"),
    rows("NaN", "[NaN]", "rows.json", file="rows.json"),
    rows("text", "words", "rows.parquet", file="rows.parquet"),
    rows("empty", "", "rows.parquet", file="rows.parquet"),
    rows("cut", GOOD_PARQUET[:-20], "rows.parquet", file="rows.parquet"),
    rows(
        "a damaged page",
        GOOD_PARQUET[:20] + b"\xff" * 20 + GOOD_PARQUET[40:],
        "rows.parquet",
        file="rows.parquet",
    ),
    rows(
        "a damaged footer",
        GOOD_PARQUET[:-60] + b"\xff" * 30 + GOOD_PARQUET[-30:],
        "rows.parquet",
        file="rows.parquet",
    ),
    rows("broken UTF-8", BAD_UTF8, "rows.parquet", file="rows.parquet"),
    rows(
        "no rows",
        parquet(instruction=pa.array([], pa.string()), output=pa.array([], pa.string())),
        "no rows",
        file="rows.parquet",
    ),
    rows("other columns", parquet(a=[1], b=[2]), "rows.parquet", file="rows.parquet"),
    rows("numbers", parquet(instruction=[1], output=[2]), "rows.parquet", file="rows.parquet"),
    rows("bytes", parquet(instruction=[b"a"], output=[b"b"]), "rows.parquet", file="rows.parquet"),
    rows("a row with a third cell", "instruction,output\na,b\na,b,c\n", "Row #3", file="rows.csv"),
    rows("no gzip", "instruction,output\na,b\n", "as gzip", file="rows.csv.gz"),
    rows("of a spreadsheet", b"PK\x03\x04", "unknown file format", file="rows.xlsx"),
    rows("of labels", "text,label\na,b\n", "dataset=table dataset.text=text", file="rows.csv"),
    rows(
        "turns from nobody",
        '[{"conversations": [{"from": "x", "value": "a"}]}]',
        "row 1: turn 1",
        file="rows.json",
    ),
    rows("without a suffix", GOOD_LINES, "rows", file="rows"),
    rows("a pickle", b"\x80\x04.", "unknown file format", file="rows.pkl"),
    rows("a script", "import os\nos.system('touch ../x')\n", "unknown file format", file="rows.py"),
)
PLACES = (
    place("a pipe", fifo("rows.jsonl"), "it is a pipe"),
    place("a pipe of parquet", fifo("rows.parquet"), "rows.parquet", file="rows.parquet"),
    place("a folder named like a file", directory("rows.jsonl"), "rows.jsonl"),
    place("a device", nothing, "/dev/zero", file="/dev/zero"),
    place("an endless device by a link", symlink("rows.jsonl", "/dev/zero"), "rows.jsonl"),
    place("a link to itself", symlink("rows.jsonl", "rows.jsonl"), "rows.jsonl"),
    place("a link to nowhere", symlink("rows.jsonl", "nowhere.jsonl"), "rows.jsonl"),
    place("absent", nothing, "rows.jsonl"),
    place("an empty folder", directory("data"), "no data files in this folder", file="data"),
    place("a folder of a script", written("data/data.py", "import os\n"), "data", file="data"),
    place("a name of 300 characters", nothing, "xxxxx", file="x" * 300 + ".jsonl"),
    place("a path of 6,000 characters", nothing, "x/x/x", file="x/" * 3000 + "a.jsonl"),
    place("an address", nothing, "example.org", file="https://example.org/a.jsonl"),
    place(
        "llm-adapters above its folder",
        nothing,
        "llm-adapters",
        file="'llm-adapters:../../../etc/passwd'",
    ),
    place("bundled above its folder", nothing, "bundled", file="'bundled:../../../../etc/passwd'"),
    place(
        "a split that is absent",
        written("data/train.jsonl", GOOD_LINES),
        "split 'dev'",
        file="data",
        more=("dataset.split=dev",),
    ),
    place(
        "test rows without an answer",
        both(written("rows.jsonl", GOOD_LINES), written("test.jsonl", '{"instruction": "a"}\n')),
        "test.jsonl, line 1",
        more=("dataset.test=test.jsonl",),
    ),
    place(
        "test rows are training rows",
        both(
            written("rows.jsonl", GOOD_LINES.replace("}", ', "answer": "Yes."}')),
            written("test.jsonl", GOOD_LINES.replace("}", ', "answer": "Yes."}')),
        ),
        "max_overlap",
        more=("dataset.test=test.jsonl",),
    ),
    place(
        "fields that are not there",
        written("rows.jsonl", GOOD_LINES),
        "question",
        more=("dataset.fields={instruction: question}",),
    ),
    place(
        "a prompt over columns that are not there",
        written("rows.jsonl", GOOD_LINES),
        "colour",
        more=("dataset.prompt='{colour}'",),
    ),
    place(
        "a prompt that shows the answer",
        written("rows.jsonl", GOOD_LINES),
        "dataset.prompt",
        more=("dataset.prompt='{output}'",),
    ),
    place(
        "gsm8k rows without a mark",
        written("rows.jsonl", '{"question": "a", "answer": "7"}\n' * 20),
        "rows.jsonl, line 1",
        more=("dataset.format=gsm8k",),
    ),
    place(
        "more rows held out than there are",
        written("rows.jsonl", GOOD_LINES),
        "validation_rows",
        more=("dataset.validation_rows=20",),
    ),
)
TEST_ROWS = (
    test_row(
        "an answer that is NaN", {"instruction": "a", "answer": float("nan")}, "test.jsonl, line 2"
    ),
    test_row(
        "an answer that is infinite",
        {"instruction": "a", "answer": float("inf")},
        "test.jsonl, line 2",
    ),
    test_row("an answer that is true", {"instruction": "a", "answer": True}, "test.jsonl, line 2"),
    test_row(
        "an answer that is a list", {"instruction": "a", "answer": ["4"]}, "test.jsonl, line 2"
    ),
    test_row("an answer that is null", {"instruction": "a", "answer": None}, "test.jsonl, line 2"),
    test_row("an answer that is empty", {"instruction": "a", "answer": ""}, "test.jsonl, line 2"),
    test_row("no answer but an output", {"instruction": "a", "output": "4"}, "test.jsonl, line 2"),
)
CASES = (*LINES, *DOCUMENTS, *PLACES, *TEST_ROWS)
