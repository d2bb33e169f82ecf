import numpy as np
import pytest

from tests.train.optimizers.oracles import (
    LR,
    RANK,
    SCALING,
    Adam,
    Rule,
    assert_follows,
    built,
    factors,
    lora,
)
from toplora_train.config.errors import UserError


def rule() -> Rule:
    adam = Adam()

    def step(_, A, B, _gA, gB):
        projected = gB @ np.linalg.inv(A @ A.T + 1e-8 * np.eye(RANK)) / SCALING**2
        return A, B - LR * adam.direction(projected)

    return step


def test_twenty_steps_follow_the_rule_and_leave_a_as_it_is():
    assert_follows("lorafa", rule)


def test_a_has_no_state_and_no_gradient():
    model = lora()
    optimizer = built(model, "lorafa")
    assert [p.requires_grad for p in factors(model)] == [False, True, False, True]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_a_learning_rate_for_a_is_refused():
    with pytest.raises(UserError, match=r"lorafa does not train A \(lora_A\)"):
        built(lora(), "lorafa", lr_multipliers={"lora_A": 2.0})
