import numpy as np
import pytest
import torch

from tests.train.optimizers.oracles import (
    BETAS,
    LR,
    RANK,
    SHAPES,
    built,
    factors,
    gradients,
    lora,
    train,
)
from toplora_train.config.errors import UserError

pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers`")

EPS = 1e-8


class Layer:
    """LoRA-RITE's state of a layer and its rule, as published, with A' (n x r) and B (m x r)."""

    def __init__(self, m: int, n: int) -> None:
        self.v = [np.zeros((RANK, RANK)), np.zeros((RANK, RANK))]
        self.m = [np.zeros((n, RANK)), np.zeros((m, RANK))]
        self.bases = [np.zeros((n, RANK)), np.zeros((m, RANK))]

    def gradients(self, A, B, gA, gB):
        self.factors = [A.T, B]
        (qa, ra), (qb, rb) = np.linalg.qr(A.T), np.linalg.qr(B)
        self.new = [qa, qb]
        # each factor's other one
        self.inverses = [np.linalg.pinv(rb), np.linalg.pinv(ra)]
        self.change = [qb.T @ self.bases[1], qa.T @ self.bases[0]]
        self.u = [gA.T @ self.inverses[0], gB @ self.inverses[1]]
        self.u = [u * (np.sqrt(np.mean(u**2)) <= 1.0) for u in self.u]
        return sum(np.sum(u**2) for u in self.u)

    def step(self, t: int, clip: float):
        found = []
        for i in range(2):
            u, P = clip * self.u[i], self.change[i]
            b1, b2 = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in BETAS)
            self.v[i] = b2 * (P @ self.v[i] @ P.T) + (1 - b2) * (u.T @ u) / len(u)
            values, vectors = np.linalg.eigh(self.v[i])
            root = 1 / (np.sqrt(np.maximum(values, 0) + EPS**2) + EPS)
            self.m[i] = b1 * (self.m[i] @ P.T) + (1 - b1) * u @ (vectors * root) @ vectors.T
            found.append(self.factors[i] - LR * self.m[i] @ self.inverses[i].T)
        self.bases = self.new
        return found[0].T, found[1]


def by_the_rule(values: list[np.ndarray]) -> list[np.ndarray]:
    layers = [Layer(m, n) for m, n in SHAPES]
    for t, drawn in enumerate(gradients(), start=1):
        of = [gradient.numpy() for gradient in drawn]
        norm = np.sqrt(
            sum(
                one.gradients(*values[2 * i : 2 * i + 2], *of[2 * i : 2 * i + 2])
                for i, one in enumerate(layers)
            )
        )
        values = [new for one in layers for new in one.step(t, min(1.0, 1.0 / norm))]
    return values


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_twenty_steps_follow_the_rule(dtype: torch.dtype, tolerance: float):
    model = lora(dtype)
    values = [p.detach().double().numpy().copy() for p in factors(model)]
    found = train(model, built(model, "lora_rite"), gradients())
    for one, other in zip(found, by_the_rule(values), strict=True):
        assert np.abs(one - other).max() < tolerance * max(1.0, np.abs(other).max())


def test_the_step_in_w_does_not_depend_on_how_the_factors_share_their_scale():
    weights = torch.randn(9, 7, generator=torch.Generator().manual_seed(4)).double()

    def products(scale: float) -> list[torch.Tensor]:
        model = lora()
        a, b = factors(model)[:2]
        a.data.mul_(scale)
        b.data.div_(scale)
        optimizer, found = built(model, "lora_rite"), []
        for _ in range(3):
            product = b @ a
            found.append(product.detach())
            optimizer.zero_grad()
            ((product - weights) ** 2).mean().backward()
            for other in factors(model)[2:]:
                other.grad = torch.zeros_like(other)
            optimizer.step()
        return found

    for one, other in zip(products(1.0), products(10.0), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_pair_with_two_learning_rates_or_weight_decays_is_refused():
    with pytest.raises(UserError, match="give both the same factor"):
        built(lora(), "lora_rite", lr_multipliers={"lora_B": 2.0})
    with pytest.raises(UserError, match=r"name both in optimizer\.no_decay or neither"):
        built(lora(), "lora_rite", weight_decay=0.1, no_decay=["lora_B"])
