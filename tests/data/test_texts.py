import json
from pathlib import Path

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import ForgettingSettings
from toplora_train.data.texts import read_texts, windows
from toplora_train.models.tiny import tiny_tokenizer


def text_file(folder: Path, *rows: dict) -> ForgettingSettings:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ForgettingSettings(name="mine", source=str(path))


def test_the_bundled_passages_name_their_books():
    chosen = ForgettingSettings(name="g", source="bundled:general_text/test.jsonl")
    rows = read_texts(chosen, data_root=None).rows
    assert len(rows) == 16
    assert all(len(row.output) > 400 for row in rows)
    lines = Path(rows[0].place.split(",")[0]).read_text().splitlines()
    assert all(json.loads(line)["book"].endswith(")") for line in lines)


def test_empty_texts_are_left_out(tmp_path: Path):
    chosen = text_file(tmp_path, {"text": "a b"}, {"text": " "})
    assert [row.output for row in read_texts(chosen, data_root=None).rows] == ["a b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": "a"}, r"texts.jsonl, line 1: 'text' must be a text \(columns: body\)"),
        ({"text": None}, "line 1: 'text' must be a text"),
        ({"text": ""}, "no text in column 'text'"),
    ],
)
def test_a_row_without_text_is_named(tmp_path: Path, row: dict, message: str):
    with pytest.raises(UserError, match=message):
        read_texts(text_file(tmp_path, row), data_root=None)


def test_windows_cover_the_text_and_leave_out_a_single_last_token():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("the cat sat on the mat", add_special_tokens=False)["input_ids"]
    cut = windows("the cat sat on the mat", tokenizer, len(ids) - 1)
    assert cut == [tuple(ids[:-1])]
    assert [token for one in windows("the cat sat", tokenizer, 4) for token in one]
