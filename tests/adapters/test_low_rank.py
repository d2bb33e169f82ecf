"""The composed form of a low-rank update."""

import torch
from torch import nn

from toplora_train.adapters.low_rank import Gate, LowRank, composed_update, gated

torch.manual_seed(0)
X, A, B, THETA = torch.randn(2, 3, 6), torch.randn(4, 6), torch.randn(5, 4), torch.randn(6, 4)


def test_without_a_gate_it_is_a_fixed_matrix():
    expected = X.double() @ (1.5 * B @ A).double().T
    update = composed_update(X, LowRank(A, B, 1.5), nn.Identity())
    torch.testing.assert_close(update.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_gate_weights_the_directions_token_by_token():
    gate = Gate(THETA, None, lambda logits, _: logits)
    expected = 1.5 * ((X @ A.T) * (X @ THETA)) @ B.T
    torch.testing.assert_close(
        composed_update(X, LowRank(A, B, 1.5, gate), nn.Identity()), expected
    )


def test_the_gate_sees_the_input_without_dropout():
    seen = []
    gate = Gate(THETA, None, lambda logits, _: seen.append(logits) or torch.ones_like(logits))
    dropped = composed_update(X, LowRank(A, B, 1.0, gate), nn.Dropout(0.9))
    torch.testing.assert_close(seen[0], X @ THETA)
    assert (dropped - X @ (B @ A).T).abs().max() > 0.1


def test_the_gated_product_keeps_the_dtype_of_the_hidden_numbers():
    gate = Gate(THETA, None, lambda logits, _: logits.float())
    hidden = torch.randn(3, 4, dtype=torch.bfloat16)
    assert gated(hidden, hidden, gate, 1.0).dtype is torch.bfloat16
