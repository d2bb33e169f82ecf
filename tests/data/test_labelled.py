import pytest
import torch

from toplora_train.config.errors import UserError
from toplora_train.data.labelled import (
    LabelledExample,
    collate_labelled,
    encode_labelled,
)
from toplora_train.data.rows import Row
from toplora_train.models.tiny import tiny_tokenizer

ANSWERS = ("different", "same")


def pair_row(first: str = "a b", second: str = "a c", answer: str = "same") -> Row:
    return Row(f"{first}/{second}", first, second, "", answer)


def test_a_pair_is_encoded_as_the_tokenizer_encodes_pairs():
    tokenizer = tiny_tokenizer()
    encoded = encode_labelled(
        tokenizer,
        [pair_row(), pair_row("z", "zz", "different")],
        choices=ANSWERS,
        max_length=50,
        overflow="error",
    )
    assert [list(e.input_ids) for e in encoded.examples] == tokenizer(["a b", "z"], ["a c", "zz"])[
        "input_ids"
    ]
    assert [example.target for example in encoded.examples] == [1, 0]
    assert encoded.supervised_tokens == 2
    assert encoded.tokens == sum(len(example.input_ids) for example in encoded.examples)


def test_regression_targets_are_unchanged():
    encoded = encode_labelled(
        tiny_tokenizer(), [pair_row(answer="3.8")], choices=(), max_length=50, overflow="error"
    )
    assert encoded.examples[0].target == 3.8


def long_and_short() -> list[Row]:
    return [pair_row("abcdefghij", "klm"), pair_row("a", "b"), pair_row("c" * 5, "d" * 30)]


def encode_within_12(overflow: str):
    return encode_labelled(
        tiny_tokenizer(), long_and_short(), choices=ANSWERS, max_length=12, overflow=overflow
    )


def test_a_row_longer_than_the_limit_is_an_error_that_names_the_longest():
    with pytest.raises(UserError) as error:
        encode_within_12("error")
    assert "2 of 3 rows are longer than max_length=12" in str(error.value)
    assert f"row 'ccccc/{'d' * 30}' with 35" in str(error.value)


def test_dropped_rows_are_counted_and_the_others_keep_their_index():
    encoded = encode_within_12("drop")
    assert (encoded.kept, encoded.dropped_rows, encoded.truncated_rows) == ((1,), 2, 0)


def test_truncation_cuts_the_longer_text_and_is_counted():
    encoded = encode_within_12("truncate")
    assert (encoded.kept, encoded.dropped_rows, encoded.truncated_rows) == ((0, 1, 2), 0, 2)
    assert [len(example.input_ids) for example in encoded.examples] == [12, 2, 12]
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(encoded.examples[0].input_ids) == "abcdefghiklm"
    assert tokenizer.decode(encoded.examples[2].input_ids) == "ccccc" + "d" * 7


def test_a_row_longer_than_the_models_limit_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 20
    with pytest.raises(UserError, match=r"a row has 35 tokens, but the model's limit is 20"):
        encode_labelled(
            tokenizer, long_and_short(), choices=ANSWERS, max_length=64, overflow="error"
        )


def test_a_batch_is_as_long_as_its_longest_row_and_masks_by_position():
    examples = [LabelledExample((5, 6, 7), (0, 0, 1), 1), LabelledExample((8,), (0,), 0)]
    batch = collate_labelled(examples, pad_token_id=8)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 8, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.int64


def test_regression_labels_are_float32_and_token_types_optional():
    batch = collate_labelled([LabelledExample((5,), None, 3.5)], pad_token_id=0)
    assert batch["labels"].dtype == torch.float32
    assert "token_type_ids" not in batch
    with pytest.raises(ValueError, match="at least one example"):
        collate_labelled([], pad_token_id=0)
