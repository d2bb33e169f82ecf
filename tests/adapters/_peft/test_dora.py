"""Replacing PEFT's DoRA layer by layer, and the frozen weight."""

import peft
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters._peft.dora import DoraVariant, frozen_weight, replace_dora


class OtherDora(DoraVariant):
    """Computes as PEFT's."""


def dora(*layers: nn.Module, targets: list[str]) -> peft.PeftModel:
    config = peft.LoraConfig(
        target_modules=targets,
        use_dora=True,
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers),
    )
    return peft.get_peft_model(nn.Sequential(*layers), config)


def test_every_adapted_layer_gets_its_own_variant():
    model = dora(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2), targets=["0", "1"])
    replace_dora(model, OtherDora)
    first, second, third = model.base_model.model
    variants = [layer.lora_variant["default"] for layer in (first, second)]
    assert [type(variant) for variant in variants] == [OtherDora, OtherDora]
    assert variants[0] is not variants[1]
    assert type(third) is nn.Linear


def test_an_embedding_is_refused_by_name():
    model = dora(nn.Embedding(9, 8), targets=["0"])
    with pytest.raises(ValueError, match=r"^target_modules matches base_model\.model\.0, which is"):
        replace_dora(model, OtherDora)


@pytest.mark.parametrize("base", [nn.Linear(4, 3), Conv1D(3, 4)], ids=["linear", "transposed"])
def test_the_frozen_weight_maps_inputs_to_outputs(base: nn.Module):
    layer = dora(base, targets=["0"]).base_model.model[0]
    x = torch.randn(2, 4)
    assert frozen_weight(layer).shape == (3, 4)
    torch.testing.assert_close(x @ frozen_weight(layer).T + base.bias, base(x))
