import numpy as np

from tests.train.optimizers.oracles import LR, RANK, Adam, Rule, assert_follows


def rule() -> Rule:
    of_a, of_b = Adam(), Adam()
    damping = 1e-2 * np.eye(RANK)

    def step(_, A, B, gA, gB):
        inverse_b, inverse_a = np.linalg.inv(B.T @ B + damping), np.linalg.inv(A @ A.T + damping)
        return A - LR * of_a.direction(inverse_b @ gA), B - LR * of_b.direction(gB @ inverse_a)

    return step


def test_twenty_steps_follow_the_rule():
    assert_follows("riemannian", rule)
