import pytest

from toplora_train.evaluation.ranks import ALONE, Ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_every_item_is_assigned_once_in_the_batch_that_one_process_would_form(world_size):
    order = list(range(23, 0, -1))
    batches = [order[at : at + 4] for at in range(0, len(order), 4)]
    shares = [Ranks(rank, world_size).share(order, 4) for rank in range(world_size)]
    assigned = [share[at : at + 4] for share in shares for at in range(0, len(share), 4)]
    assert sorted(assigned) == sorted(batches)


def test_batches_are_assigned_round_robin():
    assert Ranks(1, 2).share([9, 8, 7, 6, 5, 4, 3], 2) == [7, 6, 3]


def test_a_single_process_does_not_communicate():
    """Real processes are tested in tests/run/test_sharing.py."""
    items = [1, 2]
    assert ALONE.gather(items) is items
    assert ALONE.broadcast("x") == "x"
    assert ALONE.first


def test_progress_names_the_process_if_there_are_several():
    assert f"gsm8k{Ranks(1, 3)}" == "gsm8k, process 2 of 3"
    assert f"gsm8k{ALONE}" == "gsm8k"
