import pytest

from toplora_train.config.errors import UserError
from toplora_train.data.split import hold_out


def test_every_row_is_on_one_side_and_the_draw_follows_the_seed():
    train, held = hold_out(100, 10, seed=1)
    assert sorted(train + held) == list(range(100))
    assert len(held) == 10
    assert hold_out(100, 10, seed=1) == (train, held)
    assert hold_out(100, 10, seed=2) != (train, held)


def test_holding_out_nothing_keeps_all():
    assert hold_out(5, 0, seed=1) == ([0, 1, 2, 3, 4], [])


def test_holding_out_everything_is_an_error_that_names_the_key():
    with pytest.raises(UserError, match=r"dataset\.validation_rows=5"):
        hold_out(5, 5, seed=1)
