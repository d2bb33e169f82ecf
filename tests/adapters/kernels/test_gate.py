"""The gate's kernel and its gradient against autograd in float64."""

import pytest
import torch

from toplora_train.adapters.toplora import gate_of

pytest.importorskip("triton")

from toplora_train.adapters.kernels.gate import gated, gated_backward

SCALING, EPS = 1.75, 2.0**-7
TOLERANCE = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def inputs(T: int, r: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
    hidden = torch.randn(T, 2 * r, device=device).to(dtype)
    gain = torch.randn(r, device=device).mul(0.3).add(1)
    return hidden, gain, torch.randn(T, r, device=device).to(dtype)


def oracle(hidden: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    h, logits = hidden.chunk(2, dim=-1)
    return SCALING * h * gate_of(logits, gain, activation="exp", norm="rms", epsilon=EPS)


def assert_close(found: torch.Tensor, exact: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        found.double(), exact, rtol=tolerance, atol=tolerance * exact.abs().max().item()
    )


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(
    ("T", "r", "dtype"),
    [
        (37, 1, torch.float32),
        (131, 4, torch.bfloat16),
        (1, 8, torch.float16),
        (130, 16, torch.bfloat16),
        (45, 48, torch.float32),
        (9, 256, torch.bfloat16),
    ],
)
def test_value_and_gradients_are_those_of_the_eager_gate(T, r, dtype, device):
    hidden, gain, dz = inputs(T, r, dtype, device)
    leaves = [hidden.double().requires_grad_(), gain.double().requires_grad_()]
    exact = oracle(*leaves)
    dhidden, dgain = torch.autograd.grad(exact, leaves, dz.double())
    z = gated(hidden, gain, SCALING, EPS)
    found, found_gain = gated_backward(dz, hidden, gain, SCALING, EPS)
    assert z.dtype == found.dtype == dtype and found_gain.dtype == torch.float32
    assert_close(z, exact.detach(), TOLERANCE[dtype])
    assert_close(found, dhidden, TOLERANCE[dtype])
    assert_close(found_gain, dgain, 1e-5)


def test_no_token_is_no_work(device):
    hidden, gain, dz = inputs(0, 4, torch.float32, device)
    assert gated(hidden, gain, SCALING, EPS).shape == (0, 4)
    dhidden, dgain = gated_backward(dz, hidden, gain, SCALING, EPS)
    assert dhidden.shape == (0, 8) and dgain.tolist() == [0, 0, 0, 0]


def test_what_does_not_fit_is_refused(device):
    hidden, gain, dz = inputs(3, 4, torch.float32, device)
    with pytest.raises(ValueError, match=r"contiguous \(T, 8\)"):
        gated(hidden[:, :6], gain, SCALING, EPS)
    with pytest.raises(ValueError, match=r"dz must be \(3, 4\)"):
        gated_backward(dz[:2], hidden, gain, SCALING, EPS)
    with pytest.raises(ValueError, match="1 to 256"):
        gated(torch.zeros(1, 514, device=device), torch.ones(257, device=device), 1.0, EPS)
