from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from toplora_train.config.errors import UserError
from toplora_train.data.cache import FOUND, FRESH
from toplora_train.data.chat import question_text
from toplora_train.data.encode import Example
from toplora_train.data.legacy import training_prompt
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row, RowSet, content_hash
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.run.prepare.encoding import Encoder, Encoding, encode_for, learned_prompt

ROWS = [Row("a", "2 + 2?", "", "4", "4")]


def encode(protocol, **changes):
    how = {"max_length": 512, "overflow": "error"} | changes
    return encode_for(protocol, tiny_tokenizer(), ROWS, **how)


def test_the_clean_protocol_evaluates_with_its_training_prompts():
    encoded = encode("clean")
    assert encoded.prompt_mismatches == 0
    assert encoded.supervised_tokens == 2  # 4 and EOS


def test_a_legacy_protocol_counts_its_prompt_mismatches():
    encoded = encode("legacy.llm_adapters")
    assert encoded.prompt_mismatches == 1
    assert encoded.supervised_tokens == encoded.tokens > 200


def test_the_clean_limit_is_not_the_legacy_one():
    with pytest.raises(UserError, match="max_length=8"):
        encode("clean", max_length=8)
    assert encode("legacy.llm_adapters", max_length=8).tokens > 200


def test_the_documented_prompt_is_the_training_prompt():
    assert learned_prompt("clean") == build_prompt("{instruction}")
    for protocol in ("legacy.toplora", "legacy.llm_adapters"):
        assert learned_prompt(protocol) == training_prompt("{instruction}")
    template = "{{Q}} {instruction}\n{hint}:"
    assert learned_prompt("clean", template=template) == "{Q} {instruction}\n{hint}:"


def test_a_row_with_its_own_prompt_is_trained_on_what_it_is_evaluated_with():
    row = replace(ROWS[0], prompt="Q: {instruction} A: ")
    encoded = encode_for("clean", tiny_tokenizer(), [row], max_length=99, overflow="error")
    (example,) = encoded.examples
    asked = question_text(tiny_tokenizer(), row, build_prompt)
    assert asked == "Q: 2 + 2? A: "
    assert list(example.input_ids[: example.prompt_length]) == tiny_tokenizer()(asked)["input_ids"]


def encoder(folder: Path | None, shown: Console | None = None, **settings) -> Encoder:
    def encode(rows, on_rows):
        limits = {"max_length": 512, "overflow": "error"}
        return encode_for("clean", tiny_tokenizer(), rows, **limits, on_rows=on_rows)

    return Encoder(
        Encoding(Example, settings, encode),
        tiny_tokenizer(),
        folder=folder,
        console=shown or Console(quiet=True),
    )


def row_set(*rows: Row) -> RowSet:
    return RowSet(rows, "rows.jsonl", content_hash(rows))


def test_rows_are_encoded_once_and_then_read(tmp_path: Path):
    first = encoder(tmp_path).encode(row_set(*ROWS), "rows")
    again = encoder(tmp_path).encode(row_set(*ROWS), "rows")
    assert again == (first[0], FOUND) and first[1] == FRESH
    other = [replace(ROWS[0], output="five")]
    assert encoder(tmp_path).encode(row_set(*other), "rows")[1] == FRESH
    assert encoder(tmp_path, max_length=7).encode(row_set(*ROWS), "rows")[1] == FRESH
    assert len(list(tmp_path.iterdir())) == 3


def test_without_a_cache_they_are_encoded_every_time():
    for _ in range(2):
        assert encoder(None).encode(row_set(*ROWS), "rows")[1] == FRESH


def test_an_error_in_the_rows_is_not_cached(tmp_path: Path):
    for _ in range(2):
        with pytest.raises(UserError, match="row 'a': no 'output'"):
            encoder(tmp_path).encode(row_set(replace(ROWS[0], output="")), "rows")
