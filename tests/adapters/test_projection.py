"""Thin products with dropout whose mask is drawn again rather than stored."""

import pytest
import torch

from toplora_train.adapters import projection
from toplora_train.adapters.projection import add_product, gradients, project

T, N, K, DROPPED, P, SEED = 37, 24, 6, 4, 0.3, 5


@pytest.fixture(autouse=True, params=[2**19, 24 * 8 * 5], ids=["whole", "five rows at a time"])
def _chunks(request, monkeypatch):
    monkeypatch.setattr(projection, "CACHE_BYTES", request.param)


@pytest.fixture
def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return tuple(torch.randn(*shape, dtype=torch.float64) for shape in [(T, N), (K, N), (T, K)])


def mask() -> torch.Tensor:
    """What drop multiplies x by, read from the product of ones: ``(T, n)``."""
    return project(torch.ones(T, N).double(), torch.eye(N).double(), P, SEED, N)


def test_the_mask_keeps_a_share_of_one_minus_p_and_scales_it():
    values, counts = mask().unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / (1 - P)]).double())
    share, error = counts[1] / (T * N), (P * (1 - P) / (T * N)) ** 0.5
    assert abs(share - (1 - P)) < 4 * error


def test_another_seed_draws_another_mask():
    other = project(torch.ones(T, N).double(), torch.eye(N).double(), P, SEED + 1, N)
    assert 0.2 < (other != mask()).double().mean() < 0.8


@pytest.mark.parametrize("dropped", [DROPPED, K])
def test_products_and_gradients_are_those_of_one_mask(tensors, dropped):
    x, k, dh = tensors
    x.requires_grad_()
    k.requires_grad_()
    expected = torch.cat([(x * mask()) @ k[:dropped].T, x @ k[dropped:].T], dim=1)
    torch.testing.assert_close(project(x.detach(), k.detach(), P, SEED, dropped), expected)
    dx, dk = torch.autograd.grad(expected, [x, k], dh)
    onto = torch.ones(T, N).double()
    x, k = x.detach(), k.detach()
    torch.testing.assert_close(gradients(dh, x, k, onto, P, SEED, dropped, x.dtype), dk)
    torch.testing.assert_close(onto, 1 + dx)
    torch.testing.assert_close(gradients(dh, x, k, None, P, SEED, dropped, x.dtype), dk)


def test_without_dropout_they_are_plain_products(tensors):
    x, k, dh = tensors
    torch.testing.assert_close(project(x, k, 0.0, 0, DROPPED), x @ k.T)
    onto = torch.ones(T, N).double()
    torch.testing.assert_close(gradients(dh, x, k, onto, 0.0, 0, DROPPED, x.dtype), dh.T @ x)
    torch.testing.assert_close(onto, 1 + dh @ k)
    torch.testing.assert_close(add_product(onto, dh, k), 1 + 2 * dh @ k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_have_the_dtype_of_the_factors(tensors, dtype):
    x, k, dh = (tensor.bfloat16() for tensor in tensors)
    for p in (0.0, P):
        assert gradients(dh, x, k, None, p, SEED, DROPPED, dtype).dtype is dtype


def test_a_probability_near_one_drops_nearly_everything():
    assert (
        project(torch.ones(1000, 400), torch.eye(400), 1 - 1e-7, SEED, 400) > 0
    ).float().mean() < 1e-4


@pytest.mark.parametrize("p", [0.05, 0.5, 0.999])
def test_each_entry_of_a_mask_is_dropped_with_its_probability_by_itself(p: float):
    """Places are sums of gaps: none is dropped more often, nor together with a neighbour."""
    dropped = project(torch.ones(1000, 400), torch.eye(400), p, SEED, 400)
    lanes = (dropped > 0).double().reshape(-1, 4)
    deviation = (p * (1 - p) / len(lanes)) ** 0.5
    assert ((lanes.mean(dim=0) - (1 - p)).abs() < 4 * deviation).all()
    together = torch.corrcoef(lanes.T) - torch.eye(4, dtype=torch.float64)
    assert together.abs().max() < 4 / len(lanes) ** 0.5
