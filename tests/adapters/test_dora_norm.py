"""The factored norm equals the direct one, and the layer PEFT's DoRA."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters._peft.dora import replace_dora
from toplora_train.adapters.dora_norm import FactoredDora, factored_row_norm, squared_row_norm


def dora_model(
    base: nn.Module | None = None, *, dropout: float = 0.0, bias: bool = True
) -> PeftModel:
    """PEFT's DoRA on one layer, with all tensors perturbed."""
    torch.manual_seed(3)
    base = nn.Linear(24, 40, bias=bias) if base is None else base
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=dropout,
        target_modules=["0"],
        use_dora=True,
        fan_in_fan_out=isinstance(base, Conv1D),
    )
    model = peft.get_peft_model(nn.Sequential(base), config, autocast_adapter_dtype=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) / 3)
    return model


def factored(model: PeftModel) -> PeftModel:
    model = copy.deepcopy(model)
    replace_dora(model, FactoredDora)
    return model


def output_and_gradients(model: PeftModel, x: torch.Tensor) -> dict[str, torch.Tensor]:
    torch.manual_seed(11)  # the same dropout mask
    x = x.clone().requires_grad_()
    y = model(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"y": y.detach(), "x": x.grad, **gradients}


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("scaling", [0.1, 2.0])
def test_the_factored_norm_is_the_row_norm_of_the_sum(scaling: float):
    W, A, B = (torch.randn(*shape).double() for shape in ((40, 24), (4, 24), (40, 4)))
    norm = factored_row_norm(W, squared_row_norm(W), A, B, scaling)
    torch.testing.assert_close(norm, (W + scaling * B @ A).norm(dim=1), rtol=1e-12, atol=0)


def test_a_row_that_the_update_cancels_has_norm_zero_and_not_nan():
    W = torch.randn(40, 24)
    A, B = torch.eye(24), -W
    norm = factored_row_norm(W, squared_row_norm(W), A, B, 1.0)
    torch.testing.assert_close(norm, torch.zeros(40), atol=5e-3, rtol=0)


def test_sixteen_bit_weights_have_their_norm_in_float32():
    W = torch.randn(40, 24).bfloat16()
    squares = squared_row_norm(W)
    assert squares.dtype == torch.float32
    torch.testing.assert_close(squares, W.float().square().sum(dim=1))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", ["with bias", "without bias", "transposed"])
def test_outputs_and_all_gradients_equal_pefts(dropout: float, training: bool, layer: str):
    base = Conv1D(40, 24) if layer == "transposed" else None
    theirs = dora_model(base, dropout=dropout, bias=layer == "with bias").train(training)
    ours = factored(theirs)
    x = torch.randn(2, 5, 24)
    expected = output_and_gradients(theirs, x)
    found = output_and_gradients(ours, x)
    assert len(expected) == 5  # y, x, A, B, magnitude
    for name in expected:
        assert relative_error(found[name], expected[name]) < 1e-5, name


def test_the_norm_follows_the_adapter_as_it_is_trained():
    theirs = dora_model()
    ours = factored(theirs)
    x = torch.randn(5, 24)
    for model in (ours, theirs):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert relative_error(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_a_16_bit_base_differs_by_rounding_only(training: bool):
    theirs = dora_model(nn.Linear(24, 40).bfloat16(), dropout=0.4)
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    theirs.train(training)
    ours = factored(theirs)
    x = torch.randn(5, 24).bfloat16()
    expected, found = output_and_gradients(theirs, x), output_and_gradients(ours, x)
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        assert relative_error(found[name], expected[name]) < 2e-2, name


class LargestMade(TorchDispatchMode):
    """The size of the largest tensor that any operation returns, except views."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not result._is_view() and not _is_view(function):
            self.size = max(self.size, result.numel())
        return result


def _is_view(function) -> bool:
    return any(ret.alias_info is not None for ret in function._schema.returns)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_step_materialises_nothing_of_the_weights_size(dropout: float):
    n, m, r, tokens = 96, 128, 4, 2
    model = dora_model(nn.Linear(n, m), dropout=dropout)
    largest = {}
    for name, variant in (("peft", model), ("factored", factored(model))):
        with LargestMade() as made:
            variant(torch.randn(tokens, n)).sum().backward()
        largest[name] = made.size
    assert largest["peft"] >= m * n
    assert largest["factored"] == r * m


def test_the_saved_file_is_pefts_dora(tmp_path: Path):
    theirs = dora_model()
    ours = factored(theirs)
    ours.save_pretrained(tmp_path)
    base = copy.deepcopy(theirs).unload()
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert loaded.peft_config["default"].use_dora
    x = torch.randn(5, 24)
    assert torch.equal(loaded(x), theirs(x))
    assert relative_error(loaded(x), ours(x)) < 1e-5


def test_it_merges_as_pefts_does():
    theirs = dora_model()
    ours = factored(theirs)
    x = torch.randn(5, 24)
    before = ours(x)
    ours.merge_adapter()
    assert relative_error(ours(x), before) < 1e-5
    ours.unmerge_adapter()
    assert relative_error(ours(x), before) < 1e-5
