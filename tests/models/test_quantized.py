"""A 4-bit layer that is evaluated first can be trained through afterwards."""

import pytest
import torch

from toplora_train.config.errors import UserError
from toplora_train.models.quantized import keep_trainable

bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def layer() -> torch.nn.Module:
    torch.manual_seed(0)
    made = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32)
    made.load_state_dict(torch.nn.Linear(64, 64, bias=False).state_dict())
    return torch.nn.Sequential(made.to("cpu")).eval()


def test_evaluated_and_then_trained_through_it_has_the_right_gradient():
    model = layer()
    keep_trainable(model)
    x = torch.randn(3, 64, requires_grad=True)
    with torch.no_grad():
        rows = model(torch.eye(64)).T
        assert torch.allclose(model(x), x @ rows.T, atol=1e-5)
    model.train()(x).sum().backward()
    assert torch.allclose(x.grad, rows.sum(dim=0).expand(3, 64), atol=1e-5)


def test_what_was_repacked_already_is_refused_by_name():
    model = layer()
    model[0].weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(
        UserError, match=r"^0 is a 4-bit layer that was evaluated on the CPU already"
    ):
        keep_trainable(model)


def test_other_layers_are_left_alone():
    keep_trainable(torch.nn.Sequential(torch.nn.Linear(2, 2)))
