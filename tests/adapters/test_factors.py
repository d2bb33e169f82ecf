import pytest
import torch

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.factors import fixed_factors
from toplora_train.models.tiny import tiny_model


def adapted(name: str, **settings):
    return attach_adapter(tiny_model(), {"name": name, "r": 4, **settings}, seed=1)


@pytest.mark.parametrize("name", ["lora", "genlora"])
def test_every_module_has_two_factors(name: str):
    model = adapted(name, target_modules=["q_proj", "v_proj"])
    factors = fixed_factors(model)
    assert len(factors) == 4
    for path, (A, B) in factors.items():
        base = model.get_base_model().get_submodule(path)
        assert A.shape == (4, base.in_features) and B.shape == (base.out_features, 4)


def test_tenslora_has_factors_for_each_module():
    model = attach_adapter(tiny_model(), {"name": "tenslora"}, seed=1)
    with torch.no_grad():
        assert len(fixed_factors(model)) == 6


@pytest.mark.parametrize("name", ["toplora", "dora"])
def test_an_update_that_is_not_a_fixed_product_has_none(name: str):
    assert fixed_factors(adapted(name)) == {}
