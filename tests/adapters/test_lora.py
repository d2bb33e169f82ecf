"""LoRA: the equation, and the mapping of keys to PEFT's."""

import pytest
import torch
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.lora import INITS, peft_config
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model


def adapted_layer(**settings) -> nn.Module:
    settings = {"name": "lora", "r": 4, "target_modules": ["q_proj"], **settings}
    model = attach_adapter(tiny_model(), settings, seed=1)
    return model.base_model.model.model.layers[0].self_attn.q_proj


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, 16 / 4), (True, 16 / 4**0.5)])
def test_it_computes_the_equation(use_rslora: bool, scaling: float):
    layer = adapted_layer(alpha=16, use_rslora=use_rslora).double()
    nn.init.normal_(layer.lora_B["default"].weight)
    x = torch.randn(3, 64, dtype=torch.float64)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = x @ (layer.base_layer.weight + scaling * delta).T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("init", INITS)
def test_every_initialisation_starts_as_the_base_model(init: str):
    layer = adapted_layer(init=init)
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-6, rtol=1e-6)
    assert torch.equal(
        layer.base_layer.weight, tiny_model().model.layers[0].self_attn.q_proj.weight
    )
    assert layer.lora_A["default"].weight.abs().sum() > 0


def test_every_key_reaches_peft():
    settings = {
        "r": 3,
        "alpha": 5,
        "dropout": 0.25,
        "target_modules": ["q_proj"],
        "exclude_modules": ["k_proj"],
        "layers_to_transform": [1],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 7},
        "modules_to_save": ["lm_head"],
        "use_rslora": True,
        "init": "gaussian",
        "bias": "all",
    }
    config = peft_config(settings)
    theirs = {"alpha": "lora_alpha", "dropout": "lora_dropout", "init": "init_lora_weights"}
    for key, value in settings.items():
        found = getattr(config, theirs.get(key, key))
        assert (sorted(found) if isinstance(found, set) else found) == value, key
    assert config.use_dora is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "pisa"}, "init must be one of kaiming, gaussian, .*, not 'pisa'"),
        ({"bias": "some"}, "bias must be one of none, all, lora_only, not 'some'"),
        ({"use_dora": True}, "use_dora is not a setting of this adapter"),
        ({"lora_alpha": 4}, "lora_alpha is not a setting of this adapter"),
    ],
)
def test_a_bad_setting_is_refused_by_a_message_that_begins_with_its_key(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        peft_config(settings)


@pytest.mark.parametrize(
    ("init", "reason"),
    [("loftq", "quantises the base model itself"), ("lora_ga", "needs gradients")],
)
def test_an_unsupported_initialisation_is_refused_with_the_reason(init: str, reason: str):
    with pytest.raises(
        UserError, match=rf"^adapter\.init must be .*, not '{init}', which {reason}"
    ):
        adapted_layer(init=init)
