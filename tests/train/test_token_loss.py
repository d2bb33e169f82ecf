import pytest
import torch
from torch.nn import functional

from toplora_train.train.token_loss import ROWS, token_loss


def drawn(tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return 5 * torch.randn(tokens, 40, dtype=dtype), torch.randint(40, (tokens,))


@pytest.mark.parametrize("tokens", [1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_gradient_are_torchs(tokens: int, dtype: torch.dtype, close: float):
    logits, targets = drawn(tokens, dtype)
    theirs, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = functional.cross_entropy(theirs, targets, reduction="sum")
    found = token_loss(1 * ours, targets)
    assert found.item() == pytest.approx(expected.item(), rel=close)
    (0.3 * expected).backward()
    (0.3 * found).backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=close)


def test_there_is_no_loss_without_tokens():
    logits = torch.zeros(0, 40, requires_grad=True)
    loss = token_loss(1 * logits, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


def test_the_gradient_takes_the_place_of_the_logits_so_it_is_computed_once():
    logits, targets = drawn(9, torch.float32)
    inputs = logits.requires_grad_()
    outputs = 1 * inputs
    loss = token_loss(outputs, targets)
    loss.backward(retain_graph=True)
    assert torch.equal(outputs.detach(), inputs.grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_infinite_logits_give_a_loss_that_is_not_finite_rather_than_a_wrong_one():
    logits, targets = drawn(3, torch.float32)
    logits[1, 5] = torch.inf
    assert not token_loss(logits, targets).isfinite()
