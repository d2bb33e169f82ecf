import pytest

from toplora_train.evaluation.ranks import ALONE, Ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_item_is_dealt_once_in_the_batch_that_one_process_would_make(world_size):
    order = list(range(23, 0, -1))
    batches = [order[at : at + 4] for at in range(0, len(order), 4)]
    shares = [Ranks(rank, world_size).share(order, 4) for rank in range(world_size)]
    dealt = [share[at : at + 4] for share in shares for at in range(0, len(share), 4)]
    assert sorted(dealt) == sorted(batches)


def test_batches_are_dealt_in_turns_so_that_all_have_long_and_short_rows():
    assert Ranks(1, 2).share([9, 8, 7, 6, 5, 4, 3], 2) == [7, 6, 3]


def test_alone_nothing_is_exchanged():
    """Between real processes it is, see tests/run/test_sharing.py."""
    mine = [1, 2]
    assert ALONE.gather(mine) is mine
    assert ALONE.broadcast("x") == "x"
    assert ALONE.first


def test_a_share_says_whose_it_is_where_there_are_several():
    assert f"gsm8k{Ranks(1, 3)}" == "gsm8k, process 2 of 3"
    assert f"gsm8k{ALONE}" == "gsm8k"
