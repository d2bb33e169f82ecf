import pytest

from toplora_train.train.sampler import remaining_batches, steps_for_tokens, steps_in_epoch


def test_a_short_last_batch_counts_as_a_step():
    assert steps_in_epoch(8, 3) == 3
    seen = list(
        remaining_batches([5] * 8, after=0, until=7, batch_size=3, group_by_length=True, seed=1)
    )
    assert [step for step, _, _ in seen] == list(range(1, 8))
    assert [len(batch) for _, _, batch in seen] == [3, 3, 2, 3, 3, 2, 3]
    assert sorted(i for _, _, batch in seen[:3] for i in batch) == list(range(8))
    assert seen[2][1] == 1.0
    assert seen[5][1] == 2.0


@pytest.mark.parametrize("after", range(7))
def test_the_position_in_the_data_is_the_step(after: int):
    def batches(skip: int):
        return list(
            remaining_batches(
                list(range(8)), after=skip, until=7, batch_size=3, group_by_length=True, seed=4
            )
        )

    assert batches(after) == batches(0)[after:]


@pytest.mark.parametrize("tokens", [1, 3, 17, 36, 37, 52, 72, 100])
@pytest.mark.parametrize("group_by_length", [True, False])
def test_steps_for_tokens_matches_counting_step_by_step(tokens, group_by_length):
    lengths = [*range(1, 9)]  # 36 tokens
    how = {"batch_size": 3, "group_by_length": group_by_length, "seed": 4}
    steps = steps_for_tokens(tokens, lengths, **how)
    walked = [
        sum(lengths[row] for row in batch)
        for _, _, batch in remaining_batches(lengths, after=0, until=steps, **how)
    ]
    assert len(walked) == steps
    assert sum(walked[:-1]) < tokens <= sum(walked)
