import pytest
import torch
from transformers import get_scheduler

from toplora_train.train.schedule import learning_rate_factor, warmup_length


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_the_factor_is_that_of_transformers_schedules(schedule: str, warmup: int):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    oracle = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=40)
    for step in range(1, 41):
        factor = learning_rate_factor(step, total_steps=40, warmup=warmup, schedule=schedule)
        assert factor == pytest.approx(oracle.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        oracle.step()


def test_warmup_steps_win_over_the_ratio():
    assert warmup_length(200, 5, 0.5) == 5
    assert warmup_length(200, 0, 0.5) == 0
    assert warmup_length(101, None, 0.06) == 7
