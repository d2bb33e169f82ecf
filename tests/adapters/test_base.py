"""A method written by the how-to inherits everything else."""

from dataclasses import dataclass

import peft
import pytest
import torch
from peft import PeftModel
from torch import nn

from toplora_train.adapters.base import AdapterLinear, AdapterModel, register_method
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@dataclass
class HowToConfig(LowRankConfig):
    method = "howto"


class HowToLinear(AdapterLinear):
    prefix = "howto_"
    adapter_layer_names = ("howto_A", "howto_B")

    def initial_tensors(self, config, module_name):
        r = config.rank_for(module_name)
        return {
            "howto_A": torch.randn(r, self.in_features),
            "howto_B": torch.zeros(self.out_features, r),
        }

    def update(self, x, adapter_name):
        A, B = self.lora_factors(adapter_name)
        return self.dropout(adapter_name)(x) @ A.T @ B.T

    def lora_factors(self, adapter_name):
        scaling = self.scaling[adapter_name]
        return self.howto_A[adapter_name], scaling * self.howto_B[adapter_name]


class HowToModel(AdapterModel):
    prefix = "howto_"
    tuner_layer_cls = HowToLinear


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12).view(2, 6)).logits


def test_it_trains_saves_loads_switches_and_merges(tmp_path):
    register_method("howto", HowToConfig, HowToModel)
    model = peft.get_peft_model(tiny_model(), HowToConfig(r=2))
    plain = logits(tiny_model())
    assert torch.equal(logits(model), plain)
    model(torch.arange(6)[None]).logits.square().mean().backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert "howto_" in name
                assert ("howto_B" in name) == bool(parameter.grad.any())  # B = 0 hides A
                parameter.add_(torch.randn_like(parameter) / 10)
    trained = logits(model)
    assert not torch.allclose(trained, plain, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(logits(loaded), trained)
    torch.testing.assert_close(logits(loaded.merge_and_unload()), trained)
