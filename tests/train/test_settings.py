from pathlib import Path

import pytest

from toplora_train.train.settings import LoopSettings


def settings(**changes) -> LoopSettings:
    every = dict(
        log_every=1,
        eval_every=0,
        save_every=0,
        save_seconds=0.0,
        keep=1,
    )
    batches = dict(
        checkpoints=Path("unused"),
        batch_size=4,
        micro_batch_size=2,
        group_by_length=True,
        max_grad_norm=1.0,
    )
    return LoopSettings(
        **(
            {"total_steps": 7, "learning_rate": lambda _: 1.0, "seed": 1}
            | every
            | batches
            | changes
        )
    )


@pytest.mark.parametrize(("every", "due"), [(0, [7]), (3, [3, 6, 7]), (7, [7])])
def test_a_validation_loss_and_a_checkpoint_are_due_every_n_steps_and_at_the_end(every, due):
    found = settings(eval_every=every, save_every=every)
    steps = range(1, 8)
    assert [step for step in steps if found.validates_at(step)] == due
    assert [step for step in steps if found.saves_at(step)] == due
