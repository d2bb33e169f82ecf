from dataclasses import dataclass

import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.overflow import Encoded, within_limit
from toplora_train.data.rows import Row


@dataclass(frozen=True)
class Ids:
    input_ids: tuple[int, ...]
    supervised: int = 2


WHOLE = [Ids((1,) * length) for length in (3, 9, 4, 7)]
ROWS = [Row(f"of {len(one.input_ids)}", "Go.", "", "x", "") for one in WHOLE]


def limited(max_length: int, overflow: str) -> Encoded[Ids]:
    return within_limit(
        WHOLE,
        ROWS,
        max_length=max_length,
        overflow=overflow,
        cut=lambda long: (Ids(WHOLE[index].input_ids[:max_length]) for index in long),
        remedies="dataset.overflow=drop",
    )


@pytest.mark.parametrize("overflow", ["error", "drop", "truncate"])
def test_examples_within_the_limit_are_unchanged(overflow: str):
    assert limited(9, overflow) == Encoded(tuple(WHOLE), (0, 1, 2, 3))


def test_the_error_names_the_longest_row_and_the_remedies():
    with pytest.raises(UserError) as error:
        limited(4, "error")
    assert str(error.value) == (
        "2 of 4 rows are longer than max_length=4 tokens, the longest is row 'of 9' with 9; raise "
        "dataset.max_length, or set dataset.overflow=drop"
    )


def test_dropped_and_truncated_rows_are_counted_and_the_others_keep_their_index():
    dropped, cut = limited(4, "drop"), limited(4, "truncate")
    assert dropped == Encoded((WHOLE[0], WHOLE[2]), (0, 2), dropped_rows=2)
    assert [len(one.input_ids) for one in cut.examples] == [3, 4, 4, 4]
    assert (cut.kept, cut.truncated_rows, cut.dropped_rows) == ((0, 1, 2, 3), 2, 0)


def test_nothing_left_is_an_error():
    with pytest.raises(UserError, match="all 4 rows are longer than max_length=2"):
        limited(2, "drop")


def test_tokens_are_counted_over_kept_rows():
    assert (limited(4, "drop").tokens, limited(4, "drop").supervised_tokens) == (7, 4)


def test_an_unknown_overflow_is_a_value_error():
    with pytest.raises(ValueError, match="'cut'"):
        limited(4, "cut")
