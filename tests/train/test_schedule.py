import pytest
import torch
from transformers import get_scheduler

from toplora_train.train.schedule import learning_rate_factor, warmup_length


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 7])
def test_from_zero_matches_transformers_schedules(schedule: str, warmup: int):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    oracle = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=40)
    for step in range(1, 41):
        factor = learning_rate_factor(
            step, total_steps=40, warmup=warmup, schedule=schedule, from_zero=True
        )
        assert factor == pytest.approx(oracle.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_warm_up_is_linear_and_no_step_has_a_learning_rate_of_zero(schedule: str):
    for total, warmup in [(1, 1), (1, 0), (5, 5), (9, 4)]:
        factors = [
            learning_rate_factor(step, total_steps=total, warmup=warmup, schedule=schedule)
            for step in range(1, total + 1)
        ]
        assert min(factors) > 0
        rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
        assert factors[:warmup] == pytest.approx(rise)
        assert factors[warmup : warmup + 1] in ([1.0], [])


def test_warmup_steps_take_precedence_over_the_ratio():
    assert warmup_length(200, 5, 0.5) == 5
    assert warmup_length(200, 0, 0.5) == 0
    assert warmup_length(101, None, 0.06) == 7
