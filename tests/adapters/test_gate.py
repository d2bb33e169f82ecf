"""The paper's gate and its gradient, against autograd's of the gate as TopLoRA defines it."""

import torch

from toplora_train.adapters.gate import gated, gated_backward
from toplora_train.adapters.toplora import gate_of

EPS, SCALING = 1e-5, 1.7


def test_value_and_gradients_are_those_of_autograd():
    torch.manual_seed(0)
    hidden = torch.randn(11, 10, dtype=torch.float64).requires_grad_()
    gain = torch.rand(5, dtype=torch.float64).requires_grad_()
    dz = torch.randn(11, 5, dtype=torch.float64)
    a, logits = hidden.chunk(2, dim=1)
    z = SCALING * a * gate_of(logits, gain, activation="exp", norm="rms", epsilon=EPS)
    expected = (z, *torch.autograd.grad(z, [hidden, gain], dz))
    hidden, gain = hidden.detach(), gain.detach()
    ours = (gated(hidden, gain, SCALING, EPS), *gated_backward(dz, hidden, gain, SCALING, EPS))
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    hidden, gain = torch.randn(11, 10).bfloat16(), torch.rand(5)
    z = gated(hidden, gain, SCALING, EPS)
    assert z.dtype is torch.bfloat16
    torch.testing.assert_close(z, gated(hidden.float(), gain, SCALING, EPS).bfloat16())
    dhidden, dgain = gated_backward(z, hidden, gain, SCALING, EPS)
    assert (dhidden.dtype, dgain.dtype) == (torch.bfloat16, torch.float32)


def test_a_token_without_direction_has_a_finite_gate():
    hidden, gain = torch.zeros(1, 10), torch.ones(5)
    assert gated(hidden, gain, SCALING, EPS).isfinite().all()
    assert gated_backward(torch.ones(1, 5), hidden, gain, SCALING, EPS)[0].isfinite().all()
