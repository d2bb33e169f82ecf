"""DoRA: the equation, its start and its detached norm."""

from pathlib import Path

import pytest
import torch
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.dora import peft_config
from toplora_train.adapters.dora_norm import FactoredDora
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model


def adapted_layer(**settings) -> nn.Module:
    settings = {"name": "dora", "r": 4, "target_modules": ["q_proj"], **settings}
    model = attach_adapter(tiny_model(), settings, seed=1)
    return model.base_model.model.model.layers[0].self_attn.q_proj


def moved(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    nn.init.normal_(layer.lora_B["default"].weight, std=0.1)
    with torch.no_grad():
        layer.lora_magnitude_vector["default"].weight.mul_(1 + torch.rand(64) / 2)
    return layer


def direction(layer: nn.Module) -> torch.Tensor:
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    return layer.base_layer.weight + layer.scaling["default"] * delta


def test_the_magnitude_starts_as_the_row_norm_so_that_the_weight_is_unchanged():
    layer = adapted_layer()
    magnitude = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(magnitude, layer.base_layer.weight.norm(dim=1))
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-5, rtol=1e-5)


def test_it_computes_the_equation_and_its_gradients_with_the_norm_detached():
    layer = moved(adapted_layer())
    x = torch.randn(3, 64)
    weight = direction(layer)
    magnitude = layer.lora_magnitude_vector["default"].weight
    expected = x @ (magnitude / weight.norm(dim=1).detach() * weight.T)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)

    trained = [layer.lora_A["default"].weight, layer.lora_B["default"].weight, magnitude]
    upstream = torch.randn(3, 64)
    for found, oracle in zip(
        torch.autograd.grad(layer(x), trained, upstream),
        torch.autograd.grad(expected, trained, upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, oracle, atol=1e-4, rtol=1e-3)


def test_merged_rows_have_the_trained_magnitude_as_their_norm():
    layer = moved(adapted_layer())
    layer.merge()
    magnitude = layer.lora_magnitude_vector["default"].weight
    torch.testing.assert_close(layer.base_layer.weight.norm(dim=1), magnitude.data)


def test_its_keys_are_loras_and_norm():
    config = peft_config({"r": 3, "alpha": 5, "dropout": 0.25})
    assert (config.use_dora, config.r, config.lora_alpha, config.lora_dropout) == (True, 3, 5, 0.25)
    with pytest.raises(ValueError, match=r"^use_dora is not a setting of this adapter"):
        peft_config({"use_dora": False})


def test_the_factored_norm_is_chosen_by_a_key_and_computes_the_same(tmp_path: Path):
    ids = torch.randint(2, 250, (2, 7), generator=torch.Generator().manual_seed(5))
    logits = {}
    for norm in ("peft", "factored"):
        model = attach_adapter(tiny_model(), {"name": "dora", "r": 4, "norm": norm}, seed=1)
        layers = [module for module in model.modules() if hasattr(module, "lora_variant")]
        for layer in layers:
            assert isinstance(layer.lora_variant["default"], FactoredDora) == (norm == "factored")
        for layer in layers:
            nn.init.normal_(
                layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(0)
            )
        logits[norm] = model(ids).logits
        save_adapter(model, tmp_path / norm)
    torch.testing.assert_close(logits["factored"], logits["peft"], atol=1e-5, rtol=1e-5)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        saved = [(tmp_path / norm / file).read_bytes() for norm in logits]
        assert saved[0] == saved[1]
    with pytest.raises(
        UserError, match=r"^adapter\.norm must be one of peft, factored, not 'fast'"
    ):
        attach_adapter(tiny_model(), {"name": "dora", "norm": "fast"}, seed=1)
