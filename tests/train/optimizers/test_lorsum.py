"""LoRSum's twenty steps against least-squares problems that numpy solves in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.train.optimizers.oracles import LR, SCALING, SHAPES, STEPS, Matrix, built, lora
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

TOKENS, MOMENTUM, DAMP, LMBD = 5, 0.8, 0.25, 1e-2
BETA, DAMPING = 0.9, 1e-3
SETTINGS = {
    "momentum": MOMENTUM,
    "damp": DAMP,
    "lmbd": LMBD,
    "num_iters": 2,
    "metric_beta": BETA,
    "damping": DAMPING,
    "max_grad_norm": 0,
}


def passes() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """For each step and layer the inputs X and the gradients S of the outputs."""
    drawn = torch.Generator().manual_seed(2)
    return [
        [
            tuple(torch.randn(TOKENS, k, generator=drawn, dtype=torch.float64) for k in (n, m))
            for m, n in SHAPES
        ]
        for _ in range(STEPS)
    ]


def layers(model: nn.Module) -> list[nn.Module]:
    return [model.base_model.model[f"layer{i}"] for i in range(len(SHAPES))]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, *, parts: int = 1) -> list[Matrix]:
    """Take the steps, each in ``parts`` micro-batches; return A and B of each layer."""
    model.train()
    for step in passes():
        optimizer.zero_grad()
        for part in range(parts):
            for layer, (x, s) in zip(layers(model), step, strict=True):
                dtype = layer.lora_A["default"].weight.dtype
                x, s = (t[part::parts].to(dtype) for t in (x, s))
                (layer(x) * s).sum().backward()
        optimizer.step()
    return [
        factor["default"].weight.detach().double().numpy()
        for layer in layers(model)
        for factor in (layer.lora_A, layer.lora_B)
    ]


def ridge(left: Matrix, target: Matrix, start: Matrix, lam: float) -> Matrix:
    """The Z with the least ``|| left Z - target ||^2 + lam || Z - start ||^2``."""
    system = np.vstack([left, np.sqrt(lam) * np.eye(left.shape[1])])
    return np.linalg.lstsq(system, np.vstack([target, np.sqrt(lam) * start]), rcond=None)[0]


def summed(
    total: Matrix,
    A: Matrix,
    B: Matrix,
    lam: float,
    N: Matrix | float = 1.0,
    M: Matrix | float = 1.0,
) -> tuple[Matrix, Matrix]:
    """Factors near the total by its error's squares, weighted by M for rows and N for columns."""
    new_a, new_b = A, B
    for _ in range(SETTINGS["num_iters"]):
        new_a = ridge(M**0.5 * new_b, M**0.5 * total, A, lam)
        new_b = ridge((new_a * N**0.5).T, (total * N**0.5).T, B.T, lam).T
    return new_a, new_b


def expected(clip: float = 0.0, power: float = 0.0) -> list[Matrix]:
    """A and B by the rule, of whole matrices m x n."""
    state = []
    for number, layer in enumerate(layers(lora())):
        A, B = (f["default"].weight.detach().numpy() for f in (layer.lora_A, layer.lora_B))
        drawn = torch.Generator().manual_seed(number)
        M = torch.randn(A.shape, generator=drawn).double().numpy()
        metrics = np.ones(A.shape[1]), np.ones((len(B), 1))
        state.append([A, SCALING * B, M, np.zeros_like(B), *metrics])
    for step in passes():
        gradients = [s.numpy().T @ x.numpy() for x, s in step]
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
        for held, gradient, (x, s) in zip(state, gradients, step, strict=True):
            A, B, M_A, M_B, squares_in, squares_out = held
            squares_in = BETA * squares_in + (1 - BETA) * (x.numpy() ** 2).mean(axis=0)
            of_s = TOKENS * ((scale * s.numpy()) ** 2).sum(axis=0)[:, None]
            squares_out = BETA * squares_out + (1 - BETA) * of_s
            N, M = ((squares + DAMPING) ** power for squares in (squares_in, squares_out))
            kept = (1 - DAMP) * scale * gradient
            total = B @ A - LR * (kept + MOMENTUM * M_B @ M_A) / M / N
            held[:2] = summed(total, A, B, LR * LMBD, N, M)
            held[2:4] = summed(MOMENTUM * M_B @ M_A + kept, M_A, M_B, LR * LMBD)
            held[4:] = squares_in, squares_out
    return [factor for A, B, *_ in state for factor in (A, B / SCALING)]


def furthest(found: list[Matrix], wanted: list[Matrix]) -> float:
    return max(
        np.abs(one - other).max() / max(1.0, np.abs(other).max())
        for one, other in zip(found, wanted, strict=True)
    )


@pytest.mark.parametrize(("clip", "power"), [(0.0, 0.0), (1.5, 0.0), (0.0, 1.0), (1.5, 0.5)])
def test_twenty_steps_follow_the_rule(clip: float, power: float):
    wanted = expected(clip, power)
    settings = {**SETTINGS, "max_grad_norm": clip, "metric_power": power}
    start = [f.detach().double().numpy() for f in layers(lora())[0].lora_A.parameters()]
    assert furthest(wanted[:1], start) > 1e-3
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        model = lora(dtype)
        assert furthest(train(model, built(model, "lorsum", **settings)), wanted) < tolerance


@pytest.mark.parametrize(("exempt", "decayed"), [((), (0, 1)), (("lora_B",), (0,))])
def test_each_factor_decays_by_its_own_group(exempt: tuple[str, ...], decayed: tuple[int, ...]):
    x, s = passes()[0][0]
    stepped = []
    for decay in (0.0, 0.5):
        model = lora()
        optimizer = built(model, "lorsum", weight_decay=decay, no_decay=exempt, **SETTINGS)
        layer = layers(model)[0].train()
        (layer(x) * s).sum().backward()
        optimizer.step()
        stepped.append((layer.lora_A["default"].weight, layer.lora_B["default"].weight))
    for factor, (plain, found) in enumerate(zip(*stepped, strict=True)):
        shrunk = plain * (1 - LR * 0.5) if factor in decayed else plain
        torch.testing.assert_close(found, shrunk, rtol=1e-12, atol=0)


def test_micro_batches_are_one_batch():
    one, other = lora(), lora()
    whole = train(one, built(one, "lorsum", **SETTINGS))
    parts = train(other, built(other, "lorsum", **SETTINGS), parts=3)
    assert furthest(parts, whole) < 1e-10


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_rows_step_alike_however_they_are_padded(power: float):
    """Four rows of different lengths in one forward pass, and in one each."""
    stepped = []
    for size in (4, 1):
        settings = adapter_defaults("lora")[0] | {"dropout": 0.0}
        model = attach_adapter(tiny_model(), settings, seed=0).double().train()
        optimizer = built(
            model, "lorsum", momentum=0.9, damp=0.9, metric_power=power, metric_beta=0.5
        )
        drawn = torch.Generator().manual_seed(0)
        for _ in range(2):
            ids = torch.randint(3, 90, (4, 12), generator=drawn)
            mask = torch.arange(12) < torch.tensor([[12], [7], [4], [3]])
            optimizer.zero_grad()
            for part in range(0, 4, size):
                own = mask[part : part + size]
                width = int(own.sum(1).max())
                batch = {
                    "input_ids": ids[part : part + size, :width],
                    "attention_mask": own[:, :width].long(),
                }
                logits = model(**batch).logits
                (logits.square().mean(-1) * own[:, :width]).sum().backward()
            optimizer.step()
        stepped.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    for together, alone in zip(*stepped, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_passes_before_a_cleared_gradient_and_evaluations_are_forgotten():
    model = lora()
    optimizer = built(model, "lorsum", **SETTINGS)
    before = [p.detach().clone() for p in model.parameters()]
    layer = layers(model)[0]
    layer(torch.randn(3, 7, dtype=torch.float64)).sum().backward()
    optimizer.zero_grad()
    layer.eval()(torch.randn(3, 7, dtype=torch.float64)).sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(("m", "n", "tokens"), [(9, 7, 5), (9, 7, 20)])
def test_the_gradients_norm_is_of_the_product(m: int, n: int, tokens: int):
    from toplora_train.train.optimizers.lorsum import _squared_norm

    x, s = torch.randn(tokens, n, dtype=torch.float64), torch.randn(tokens, m, dtype=torch.float64)
    torch.testing.assert_close(_squared_norm(x, s), torch.linalg.norm(s.T @ x) ** 2)


@pytest.mark.parametrize("name", ["dora", "toplora"])
def test_adapters_with_other_updates_are_refused(name: str):
    adapted = attach_adapter(tiny_model(), adapter_defaults(name)[0], seed=1)
    with pytest.raises(UserError, match=r"^optimizer=lorsum is for .*: adapter=lora, without init"):
        built(adapted, "lorsum")


@pytest.mark.parametrize("setting", [{"momentum": 1.0}, {"lmbd": 0.0}, {"num_iters": 0}])
def test_a_setting_out_of_range_is_refused(setting: dict):
    with pytest.raises(UserError, match=rf"^optimizer\.settings\.{next(iter(setting))} must be fr"):
        built(lora(), "lorsum", **setting)
