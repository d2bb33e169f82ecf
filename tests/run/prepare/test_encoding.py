from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from toplora_train.config.errors import UserError
from toplora_train.data.cache import FOUND, FRESH, PARTLY
from toplora_train.data.chat import question_text
from toplora_train.data.encode import Example
from toplora_train.data.legacy import training_prompt
from toplora_train.data.prompts import build_prompt
from toplora_train.data.rows import Row, RowSet, content_hash
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.run.prepare import encoding
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


MANY = tuple(Row(str(n), f"{n}?", "", "4" * (n % 7 + 1), "", place=f"line {n}") for n in range(25))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten rows per piece, encoded four at a time, without forks."""
    monkeypatch.setattr(encoding, "PIECE", 10)
    monkeypatch.setattr(encoding, "CHUNK", 4)
    monkeypatch.setattr(encoding, "cores", lambda: 1)


def limited(
    folder: Path | None,
    overflow: str,
    max_length: int,
    seen: list[str] | None = None,
    stop: str = "",
    **shared,
) -> Encoder:
    """An encoder that notes the rows' ids in ``seen``, and is interrupted at the row ``stop``."""
    settings = {"max_length": max_length, "overflow": overflow}

    def encode(rows, on_rows):
        if seen is not None:
            seen.extend(row.id for row in rows)
        if any(row.id == stop for row in rows):
            raise KeyboardInterrupt
        return encode_for("clean", tiny_tokenizer(), rows, **settings, on_rows=on_rows)

    return Encoder(
        Encoding(Example, settings, encode),
        tiny_tokenizer(),
        folder=folder,
        console=Console(quiet=True),
        **shared,
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("overflow", ["drop", "truncate", "error"])
def test_pieces_are_encoded_as_the_whole(tmp_path: Path, overflow: str):
    shortest = encode_for("clean", tiny_tokenizer(), MANY[:1], max_length=512, overflow="error")
    limits = {"max_length": shortest.tokens + (9 if overflow == "error" else 4)}
    limits |= {"overflow": overflow}
    whole = encode_for("clean", tiny_tokenizer(), MANY, **limits)
    for folder, origin in ((tmp_path, FRESH), (tmp_path, FOUND), (None, FRESH)):
        found, where = limited(folder, **limits).encode(row_set(*MANY), "rows")
        assert (list(found.examples), where) == (list(whole.examples), origin)
        assert found.kept.tolist() == list(whole.kept)
        assert (found.truncated_rows, found.dropped_rows) == (
            whole.truncated_rows,
            whole.dropped_rows,
        )
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("small")
def test_rows_that_are_too_long_are_counted_over_all_pieces(tmp_path: Path):
    shortest = encode_for("clean", tiny_tokenizer(), MANY[:1], max_length=512, overflow="error")
    limits = {"max_length": shortest.tokens + 3, "overflow": "error"}
    with pytest.raises(UserError) as whole:
        encode_for("clean", tiny_tokenizer(), MANY, **limits)
    for _ in range(2):
        with pytest.raises(UserError) as pieces:
            limited(tmp_path, **limits).encode(row_set(*MANY), "rows")
        assert str(pieces.value) == str(whole.value)
    limits = {"max_length": 20, "overflow": "drop"}
    for _ in range(2):  # the second time the pieces are cached
        with pytest.raises(UserError, match="all 25 rows are longer than max_length=20"):
            limited(tmp_path, **limits).encode(row_set(*MANY), "rows")


@pytest.mark.usefixtures("small")
def test_interrupted_encoding_continues_with_the_piece_that_is_missing(tmp_path: Path):
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        limited(tmp_path, "error", 512, stop="15").encode(row_set(*MANY), "rows")
    found, origin = limited(tmp_path, "error", 512, seen).encode(row_set(*MANY), "rows")
    assert origin == PARTLY and seen == [row.id for row in MANY[10:]]
    whole = encode_for("clean", tiny_tokenizer(), MANY, max_length=512, overflow="error")
    assert found.examples == whole.examples


@pytest.mark.usefixtures("small")
def test_the_processes_of_a_computer_each_encode_some_of_the_pieces(tmp_path: Path):
    seen: list[list[str]] = [[], []]
    found = []

    def encode(rank: int, barrier) -> None:
        shared = {"local": Ranks(rank, 2), "barrier": barrier}
        encoder = limited(tmp_path, "error", 512, seen[rank], **shared)
        found.append(encoder.encode(row_set(*MANY), "rows"))

    encode(0, lambda: encode(1, lambda: None))
    ids = [row.id for row in MANY]
    assert seen == [ids[:10] + ids[20:], ids[10:20]]
    whole = encode_for("clean", tiny_tokenizer(), MANY, max_length=512, overflow="error")
    for encoded, origin in found:
        assert encoded.examples == whole.examples and origin == FRESH


@pytest.mark.usefixtures("small")
def test_forks_encode_the_pieces_of_a_single_process(tmp_path: Path, monkeypatch):
    """Rows seen here are those that no fork has encoded."""
    monkeypatch.setattr(encoding, "cores", lambda: 2)
    counted: list[int] = []
    monkeypatch.setattr(encoding.EncodingDisplay, "add", lambda _, rows: counted.append(rows))
    whole = encode_for("clean", tiny_tokenizer(), MANY, max_length=512, overflow="error")
    for expected in (FRESH, FOUND):
        seen: list[str] = []
        encoder = limited(tmp_path, "error", 512, seen)
        counted.clear()
        encoded, origin = encoder.encode(row_set(*MANY), "rows")
        assert encoded.examples == whole.examples
        assert (origin, seen, sum(counted)) == (expected, [], len(MANY))


@pytest.mark.usefixtures("small")
def test_what_a_fork_failed_at_is_done_again_and_says_why(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(encoding, "cores", lambda: 3)
    rows = [replace(row, output="" if row.id in ("14", "24") else "4") for row in MANY]
    with pytest.raises(UserError, match="line 14: no 'output'"):
        limited(tmp_path, "error", 512).encode(row_set(*rows), "rows")
    assert len(list(tmp_path.iterdir())) == 1  # of the first piece
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        limited(tmp_path, "error", 512, seen, stop="15").encode(row_set(*MANY), "rows")
    assert seen == [row.id for row in MANY[10:18]]  # four at a time


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_errors_every_process_raises_the_first(tmp_path: Path, rank: int):
    rows = [replace(row, output="" if row.id in ("4", "14", "24") else "4") for row in MANY]
    shared = {"local": Ranks(rank, 2), "barrier": lambda: None}
    with pytest.raises(UserError, match="line 4: no 'output'"):
        limited(tmp_path, "error", 512, **shared).encode(row_set(*rows), "rows")
