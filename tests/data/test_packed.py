import pytest

from toplora_train.data.encode import Example
from toplora_train.data.packed import pack


def test_rows_are_concatenated_and_positions_restart_at_zero():
    batch = pack([Example((5, 6, 7), 2), Example((8, 9), 1)])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 7, -100, 9]]
    assert "attention_mask" not in batch


def test_the_first_token_of_a_row_is_not_supervised():
    batch = pack([Example((5, 6), 0), Example((7, 8, 9), 0), Example((4,), 0)])
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9, -100]]


def test_an_empty_batch_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        pack([])
