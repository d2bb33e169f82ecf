"""PEFT's LoRA layers with this package's forward."""

import pytest
import torch
from peft.tuners.lora.layer import Linear as PeftLora

from toplora_train.adapters import fused
from toplora_train.adapters._peft.lora import FusedLora, use_kernel
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

TOKENS = torch.arange(12).view(2, 6)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """A number for each fused layer that is computed."""
    found, apply = [], fused._FusedLinear.apply
    monkeypatch.setattr(
        fused._FusedLinear, "apply", lambda *inputs: found.append(1) or apply(*inputs)
    )
    return found


def model_with(kernel: str = "fused", **changes):
    settings = adapter_defaults("lora")[0] | {"kernel": kernel} | changes
    return attach_adapter(tiny_model(), settings, seed=0)


@pytest.mark.parametrize(("kernel", "layer"), [("fused", FusedLora), ("peft", PeftLora)])
def test_the_kernel_chooses_the_forward(calls, kernel, layer):
    model = model_with(kernel)
    assert layer in {type(module) for module in model.modules()}
    model(input_ids=TOKENS)
    assert bool(calls) is (kernel == "fused")


def test_a_layer_is_turned_back_into_pefts(calls):
    model = model_with()
    use_kernel(model, "peft")
    model(input_ids=TOKENS)
    assert not calls


@pytest.mark.parametrize("state", ["disabled", "merged", "two active", "mixed batch"])
def test_what_peft_alone_does_is_left_to_it(calls, state):
    model = model_with()
    model.eval()
    if state == "two active":
        model.add_adapter("second", model.peft_config["default"])
        model.base_model.set_adapter(["default", "second"])
        model(input_ids=TOKENS)
    elif state == "mixed batch":
        model(input_ids=TOKENS, adapter_names=["default", "__base__"])
    elif state == "merged":
        model.merge_adapter()
        model(input_ids=TOKENS)
    else:
        with model.disable_adapter():
            model(input_ids=TOKENS)
    assert not calls


def test_an_unknown_kernel_is_refused():
    with pytest.raises(UserError, match=r"adapter\.kernel must be one of fused, peft, not 'cuda'"):
        model_with("cuda")
