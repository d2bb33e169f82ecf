"""The three projections against float64, with the mask that one of them was seen to apply."""

import pytest
import torch

from toplora_train.adapters.toplora import gate_of

pytest.importorskip("triton")

from toplora_train.adapters.kernels.gate import gated, gated_backward
from toplora_train.adapters.kernels.projection import (
    project,
    project_backward_input,
    project_backward_weight,
    tiles_of,
)

SEED = 2**40 + 11
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
CASES = [
    (33, 40, 2, 1, torch.float32, 0.5),
    (65, 134, 8, 4, torch.bfloat16, 0.05),
    (1, 136, 16, 8, torch.float16, 0.3),
    (130, 128, 32, 16, torch.bfloat16, 0.0),
    (20, 100, 48, 48, torch.bfloat16, 0.2),
    (18, 24, 96, 48, torch.float32, 0.1),
    (17, 40, 300, 44, torch.bfloat16, 0.1),
]


def assert_close(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    assert found.shape == exact.shape
    error = (found.double() - exact).abs().max().item()
    assert error <= tolerance * exact.abs().max().item()  # false for NaN, too


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("T", "n", "k", "dropped", "dtype", "p"), CASES)
def test_all_three_are_the_products_with_one_mask(T, n, k, dropped, dtype, p, mask, device):
    x, K, dhidden, dx = (
        torch.randn(shape, device=device).to(dtype) for shape in [(T, n), (k, n), (T, k), (T, n)]
    )
    drop = mask(T, n, p, SEED).double()
    narrow = dhidden.double().split([dropped, k - dropped], dim=1)
    rows = K.double().split([dropped, k - dropped])
    seen = (x.double() * drop, x.double())

    hidden = project(x, K, p, SEED, dropped)
    assert hidden.dtype == dtype
    exact = torch.cat([each @ part.T for each, part in zip(seen, rows, strict=True)], dim=1)
    assert_close(hidden, exact, TOLERANCE[dtype])

    dK = project_backward_weight(dhidden, x, p, SEED, dropped)
    assert dK.dtype == torch.float32
    exact = torch.cat([part.T @ each for part, each in zip(narrow, seen, strict=True)])
    assert_close(dK, exact, 1e-5)

    exact = dx.double() + drop * (narrow[0] @ rows[0]) + narrow[1] @ rows[1]
    project_backward_input(dhidden, K, p, SEED, dropped, dx)
    assert_close(dx, exact, TOLERANCE[dtype])


def test_unit_vectors_read_the_same_mask_from_all_three(mask, device):
    T, n, p = 20, 24, 0.4
    expected = mask(T, n, p, SEED)
    ones, eye = torch.ones(T, n, device=device), torch.eye(max(T, n), device=device)
    assert torch.equal(project(ones, eye[:n, :n].contiguous(), p, SEED, n), expected)
    dK = project_backward_weight(eye[:T, :T].contiguous(), ones, p, SEED, T)
    assert torch.equal(dK, expected)


@pytest.mark.usefixtures("poison")
def test_many_spans_of_rows_give_the_same_weight_gradient_every_time(mask, device):
    T, n, k = 100, 24, 5
    x, dhidden = torch.randn(T, n, device=device), torch.randn(T, k, device=device)
    first = project_backward_weight(dhidden, x, 0.4, SEED, 3)
    assert torch.equal(first, project_backward_weight(dhidden, x, 0.4, SEED, 3))
    seen = x.double() * mask(T, n, 0.4, SEED).double()
    exact = torch.cat([dhidden[:, :3].double().T @ seen, dhidden[:, 3:].double().T @ x.double()])
    assert_close(first, exact, 1e-5)


def test_a_layer_of_the_kernels_has_the_gradients_of_autograd(mask, device):
    T, n, r, m, p, scaling, eps = 21, 40, 6, 10, 0.25, 0.7, 1e-6
    x, K, gain, B, dy = (
        torch.randn(shape, device=device) for shape in [(T, n), (2 * r, n), (r,), (m, r), (T, m)]
    )
    drop = mask(T, n, p, SEED).double()
    leaves = [tensor.double().requires_grad_() for tensor in (x, K, gain)]
    h = (leaves[0] * drop) @ leaves[1][:r].T
    gate = gate_of(
        leaves[0] @ leaves[1][r:].T, leaves[2], activation="exp", norm="rms", epsilon=eps
    )
    y = (scaling * h * gate) @ B.double().T
    expected = torch.autograd.grad(y, leaves, dy.double())

    hidden = project(x, K, p, SEED, r)
    assert_close(gated(hidden, gain, scaling, eps) @ B.T, y.detach(), 1e-5)
    dhidden, dgain = gated_backward(dy @ B, hidden, gain, scaling, eps)
    dx = torch.zeros_like(x)
    project_backward_input(dhidden, K, p, SEED, r, dx)
    dK = project_backward_weight(dhidden, x, p, SEED, r)
    for found, exact in zip((dx, dK, dgain), expected, strict=True):
        assert_close(found, exact, 2e-5)


def test_no_token_is_no_work(device):
    x, K = torch.randn(0, 24, device=device), torch.randn(4, 24, device=device)
    hidden = project(x, K, 0.1, SEED, 2)
    assert hidden.shape == (0, 4)
    project_backward_input(hidden, K, 0.1, SEED, 2, x)
    dK = project_backward_weight(hidden, x, 0.1, SEED, 2)
    assert dK.shape == (4, 24) and not dK.any()


def test_the_sums_of_a_tile_fit_in_the_registers():
    for k in (16, 32, 64, 96, 128, 256, 512):
        for itemsize in (2, 4):
            tiles = tiles_of(2**14, k, itemsize)
            assert tiles.forward.rows * k <= 128 * 32 * tiles.forward.warps
            assert tiles.backward_weight.columns * k <= 128 * 32 * tiles.backward_weight.warps
    assert tiles_of(100, 16, 2).forward.rows == 16 and tiles_of(2**14, 16, 2).forward.rows == 64


def test_what_does_not_fit_is_refused(device):
    x, K = torch.randn(6, 24, device=device), torch.randn(4, 24, device=device)
    dhidden = torch.randn(6, 4, device=device)
    with pytest.raises(ValueError, match="must be contiguous"):
        project(x.T, K, 0.1, SEED, 2)
    with pytest.raises(ValueError, match="one dtype"):
        project(x, K.half(), 0.1, SEED, 2)
    with pytest.raises(ValueError, match="5 of 4 rows"):
        project(x, K, 0.1, SEED, 5)
    with pytest.raises(ValueError, match="at most 256"):
        project(x, torch.zeros(300, 24, device=device), 0.0, SEED, 0)
    with pytest.raises(ValueError, match="64 bits"):
        project(x, K, 0.1, 2**63, 2)
    with pytest.raises(ValueError, match="one int64"):
        project(x, K, 0.1, torch.ones(2), 2)
    with pytest.raises(ValueError, match="does not multiply"):
        project(x, K[:, :8].contiguous(), 0.1, SEED, 2)
    with pytest.raises(ValueError, match="is no dx"):
        project_backward_input(dhidden[:5], K, 0.1, SEED, 2, x)
    with pytest.raises(ValueError, match="6 rows"):
        project_backward_weight(dhidden[:5], x, 0.1, SEED, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs 10 GB of a CUDA device")
def test_offsets_beyond_31_bits_are_reached(device):
    T, n, last = 2**19 + 64, 4096, slice(2**19, None)
    x = torch.zeros(T, n, dtype=torch.bfloat16, device=device)
    x[last] = torch.randn(64, n, device=device)
    K = torch.randn(16, n, device=device).bfloat16()
    hidden = project(x, K, 0.5, SEED, 8)
    assert not hidden[:-64].any()
    assert_close(hidden[last, 8:], x[last].double() @ K[8:].double().T, 1e-2)
    dK = project_backward_weight(hidden, x, 0.5, SEED, 8)
    assert_close(dK[8:], hidden[last, 8:].double().T @ x[last].double(), 1e-4)
    before = x[last].double()
    hidden[:, :8] = 0
    project_backward_input(hidden, K, 0.5, SEED, 8, x)
    assert_close(x[last], before + hidden[last, 8:].double() @ K[8:].double(), 1e-2)
