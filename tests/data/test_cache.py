import hashlib
import logging
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from toplora_train.config.errors import UserError
from toplora_train.data import cache
from toplora_train.data.cache import (
    FOUND,
    FRESH,
    IDS,
    REBUILT,
    joined,
    load_or_encode,
    tokenizer_digest,
    tokens_key,
)
from toplora_train.data.encode import Example
from toplora_train.data.labelled import LabelledExample
from toplora_train.data.overflow import Encoded
from toplora_train.models.tiny import tiny_tokenizer

WRITTEN = Encoded(
    (Example((5, 6, 70000), 1), Example((8,), 0)),
    (0, 3),
    truncated_rows=1,
    dropped_rows=2,
    prompt_mismatches=2,
)
CLASSES = Encoded(
    (LabelledExample((5, 6), (0, 1), 1), LabelledExample((7,), (0,), 0)), (0, 1), truncated_rows=1
)
NUMBERS = Encoded((LabelledExample((5, 6), None, 3.8), LabelledExample((7,), None, 0.1)), (0, 1))


def never():
    raise AssertionError("it was encoded again")


def load(path: Path | None, kind: type, encode, **how) -> tuple[Encoded, str]:
    """What is read from the file, as tuples."""
    table, origin = load_or_encode(path, kind, lambda: [encode()], **how)
    encoded = joined([table], kind)
    kept = tuple(np.asarray(encoded.kept).tolist())
    return replace(encoded, examples=tuple(encoded.examples), kept=kept), origin


@pytest.mark.parametrize("encoded", [WRITTEN, CLASSES, NUMBERS], ids=["tokens", "classes", "value"])
def test_reading_returns_what_was_written(tmp_path: Path, encoded: Encoded):
    kind = type(encoded.examples[0])
    path = tmp_path / "new folder" / "key"
    assert load(path, kind, lambda: encoded) == (encoded, FRESH)
    again, origin = load(path, kind, never)
    assert (again, origin) == (encoded, FOUND)
    assert {type(value) for one in again.examples for value in vars(one).values()} == {
        type(value) for one in encoded.examples for value in vars(one).values()
    }
    assert [file.name for file in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("place", [0, 40, -1])
def test_a_changed_byte_is_detected_and_the_file_rewritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
):
    path = tmp_path / "key"
    load(path, Example, lambda: WRITTEN)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load(path, Example, lambda: WRITTEN) == (WRITTEN, REBUILT)
    assert "is damaged" in caplog.text
    assert load(path, Example, never) == (WRITTEN, FOUND)


def test_ids_outside_the_vocabulary_are_encoded_again(tmp_path: Path):
    path = tmp_path / "key"
    load(path, Example, lambda: WRITTEN)
    assert load(path, Example, never, vocabulary=70001) == (WRITTEN, FOUND)
    again = load(path, Example, lambda: WRITTEN, vocabulary=70000)
    assert again == (WRITTEN, REBUILT)


@pytest.mark.parametrize("left", [0, 20, 60])
def test_a_truncated_file_is_detected(tmp_path: Path, left: int):
    path = tmp_path / "key"
    load(path, Example, lambda: WRITTEN)
    path.write_bytes(path.read_bytes()[:left])
    assert load(path, Example, lambda: WRITTEN) == (WRITTEN, REBUILT)


COUNTED = '{"truncated_rows": 1, "dropped_rows": 0, "prompt_mismatches": 0}'


def arrow(counts: str | None = COUNTED, **columns) -> bytes:
    schema = None if counts is None else {"counts": counts}
    table = pa.table(columns).replace_schema_metadata(schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


NUMBERED = {"kept": [0], "supervised": [1], "prompt_length": [1], "mask": [None]}


@pytest.mark.parametrize(
    "content",
    [
        b"garbage",
        save({"lengths": np.array([1])}),
        arrow(kept=[0], supervised=[1]),
        arrow(counts=None, input_ids=[[1]], **NUMBERED),
        arrow(counts="{", input_ids=[[1]], **NUMBERED),
        arrow(counts="[]", input_ids=[[1]], **NUMBERED),
        arrow(input_ids=["a"], **NUMBERED),
        arrow(input_ids=pa.array([[]], IDS), **NUMBERED),
        arrow(input_ids=pa.array([[-1]], IDS), **NUMBERED),
        arrow(input_ids=pa.array([[1, None]], IDS), **NUMBERED),
        arrow(input_ids=pa.array([None], IDS), **NUMBERED),
    ],
    ids=[
        "no Arrow",
        "safetensors",
        "no ids",
        "no counts",
        "no JSON",
        "a list",
        "text",
        "an empty row",
        "a negative id",
        "no id",
        "no row",
    ],
)
def test_garbage_under_a_right_checksum_is_encoded_again(tmp_path: Path, content: bytes):
    path = tmp_path / "key"
    path.write_bytes(hashlib.sha256(content).digest() + content)
    assert load(path, Example, lambda: WRITTEN) == (WRITTEN, REBUILT)


def test_failed_encoding_leaves_no_file(tmp_path: Path):
    with pytest.raises(AssertionError):
        load(tmp_path / "key", Example, never)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_does_not_stop_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        encoded, origin = load(tmp_path / "file" / "key", Example, lambda: WRITTEN)
    assert (encoded, origin) == (WRITTEN, FRESH)
    assert "cannot cache tokens" in caplog.text


def test_an_interrupted_write_leaves_no_partial_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "key", Example, lambda: WRITTEN)
    assert not list(tmp_path.iterdir())


def test_the_least_recently_used_tokens_are_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for days_ago, name in enumerate(["new", "read again", "old"]):
        load(tmp_path / name, Example, lambda: WRITTEN)
        then = time.time() - days_ago * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    load(tmp_path / "read again", Example, never)
    size = (tmp_path / "new").stat().st_size
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", str(2 * size))
    load(tmp_path / "newest", Example, lambda: WRITTEN)
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "read again"}


def test_an_invalid_limit_is_refused_before_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOPLORA_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match="is not a size"):
        load(tmp_path / "key", Example, never)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path):
    (tmp_path / ".writing-key-0a1b").write_bytes(b"half")
    load(tmp_path / "key", Example, lambda: WRITTEN)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def key(rows: str = "rows", tokenizer: str = "tokenizer", **settings: object) -> str:
    return tokens_key(rows, tokenizer, {"max_length": 8, "overflow": "drop"} | settings)


def test_the_key_covers_everything_the_tokens_depend_on(monkeypatch: pytest.MonkeyPatch):
    keys = [key(), key(rows="r"), key(tokenizer="t"), key(max_length=9), key(overflow="error")]
    monkeypatch.setattr(cache.transformers, "__version__", "another")
    keys.append(key())
    monkeypatch.undo()
    monkeypatch.setattr(cache, "_source_digest", lambda: "another prompt")
    keys.append(key())
    monkeypatch.undo()
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_the_tokenizer_digest_depends_only_on_its_files():
    tokenizer = tiny_tokenizer()
    digest = tokenizer_digest(tokenizer)
    assert tokenizer_digest(tiny_tokenizer()) == digest
    tokenizer.chat_template = "{{ messages }}"
    templated = tokenizer_digest(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert len({digest, templated, tokenizer_digest(tokenizer)}) == 3


def test_a_template_with_the_date_changes_the_digest_daily(
    monkeypatch: pytest.MonkeyPatch,
):
    class Tomorrow(cache.date):
        @classmethod
        def today(cls):
            return cls(2999, 1, 1)

    plain, dated = tiny_tokenizer(), tiny_tokenizer()
    dated.chat_template = "{{ strftime_now('%d %b %Y') }}"
    before = tokenizer_digest(plain), tokenizer_digest(dated)
    monkeypatch.setattr(cache, "date", Tomorrow)
    assert tokenizer_digest(plain) == before[0]
    assert tokenizer_digest(dated) != before[1]


def test_tokens_that_are_not_cached_are_mapped_from_a_deleted_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    many = Encoded(tuple(Example((1, 2, 3), 1) for _ in range(9)), tuple(range(9)))
    before = pa.total_allocated_bytes()
    table, origin = load_or_encode(None, Example, lambda: [many])
    assert pa.total_allocated_bytes() == before
    assert (list(joined([table], Example).examples), origin) == (list(many.examples), FRESH)
    assert not list(tmp_path.iterdir())


def test_the_examples_of_several_pieces_are_one_sequence():
    pieces = [load_or_encode(None, Example, lambda: [WRITTEN, WRITTEN])[0] for _ in range(2)]
    found = joined(pieces, Example)
    assert found.examples == WRITTEN.examples * 4
    assert found.examples[-1] == found.examples[5] == WRITTEN.examples[1]
    assert found.examples.lengths.tolist() == [3, 1] * 4
    assert found.examples.supervised.tolist() == [2, 1] * 4
    assert (found.truncated_rows, found.dropped_rows, found.tokens) == (4, 8, 16)
    nothing = load_or_encode(None, Example, lambda: [Encoded((), (), dropped_rows=3)])[0]
    assert joined([nothing, pieces[0]], Example).dropped_rows == 7
    assert joined([nothing], Example) == Encoded((), (), dropped_rows=3)
