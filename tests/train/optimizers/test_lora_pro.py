import numpy as np
import pytest
import torch

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
from toplora_train.train.optimizers.lora_pro import steps
from toplora_train.train.optimizers.pairs import factor_pairs

DAMPING = 1e-8 * np.eye(RANK)


def direction(first, A, B, gA, gB, *, closest=True):
    """dA and dB from the rule, X by its Kronecker form."""
    inverse_a = np.linalg.inv(A @ A.T + DAMPING)
    if first:
        return gA, gB @ inverse_a / SCALING**2
    inverse_b = np.linalg.inv(B.T @ B + DAMPING)
    dA = inverse_b @ gA / SCALING**2
    dB = (np.eye(len(B)) - B @ inverse_b @ B.T) @ gB @ inverse_a / SCALING**2
    if not closest:
        return dA, dB
    unit = np.eye(RANK)
    system = np.kron(unit, B.T @ B) + np.kron((A @ A.T).T, unit)
    X = np.linalg.solve(system, (-dA @ A.T).T.reshape(-1)).reshape(RANK, RANK).T
    return dA + X @ A, dB - B @ X


def efficient() -> Rule:
    of_a, of_b = Adam(), Adam()

    def step(t, A, B, gA, gB):
        dA, dB = direction(t == 0, A, B, gA, gB)
        return A - LR * of_a.direction(dA), B - LR * of_b.direction(dB)

    return step


def full() -> Rule:
    adam = Adam()

    def step(t, A, B, gA, gB):
        dA, dB = direction(t == 0, A, B, gA, gB, closest=False)
        g = adam.direction(SCALING * (B @ dA + dB @ A))
        dA, dB = direction(t == 0, A, B, SCALING * B.T @ g, SCALING * g @ A.T)
        return A - LR * dA, B - LR * dB

    return step


@pytest.mark.parametrize(("mode", "rule"), [("efficient", efficient), ("full", full)])
def test_twenty_steps_follow_the_rule(mode: str, rule):
    assert_follows("lora_pro", rule, mode=mode)


def test_no_other_step_of_a_and_b_is_closer_to_the_weights_gradient():
    model = lora()
    generator = torch.Generator().manual_seed(3)
    pair = factor_pairs(model, optimizer="lora_pro")[0]
    A, B, s = pair.a.detach(), pair.b.detach(), pair.scaling
    G = torch.randn(9, 7, generator=generator, dtype=torch.float64)
    [(dA, dB)] = steps([pair], [(s * B.T @ G, s * G @ A.T)], first=False)
    # least squares over all (dA, dB): the columns are the steps in W of each single entry
    unit_a, unit_b = torch.eye(A.numel()).double(), torch.eye(B.numel()).double()
    columns = [s * (B @ e.reshape(A.shape)).reshape(-1) for e in unit_a]
    columns += [s * (e.reshape(B.shape) @ A).reshape(-1) for e in unit_b]
    system = torch.stack(columns, dim=1)
    best = system @ torch.linalg.pinv(system) @ G.reshape(-1)
    found = s * (B @ dA + dB @ A)
    torch.testing.assert_close(found.reshape(-1), best, rtol=0, atol=1e-6)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="efficient or full, not 'half'"):
        built(lora(), "lora_pro", mode="half")


def test_full_mode_has_moments_of_the_weights_shape():
    model = lora()
    optimizer = built(model, "lora_pro", mode="full")
    for parameter in factors(model):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {state["exp_avg"].shape for state in optimizer.state.values()} == {(9, 7), (6, 11)}
