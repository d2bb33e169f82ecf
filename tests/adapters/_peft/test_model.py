"""The tuner model: targets, several adapters at once, unsupported operations."""

import peft
import pytest
import torch
from torch import nn

from toplora_train.adapters._peft.layer import UnsupportedByAdapterError
from toplora_train.adapters.toplora import TopLoraConfig
from toplora_train.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def two_layers(**settings) -> peft.PeftModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    return peft.get_peft_model(model, TopLoraConfig(target_modules=["0", "1"], r=2, **settings))


def test_rank_and_alpha_may_differ_by_module():
    model = two_layers(rank_pattern={"1": 3}, alpha_pattern={"0": 4}, use_rslora=True)
    first, second = model.base_model.model
    assert first.toplora_A["default"].shape == (2, 6)
    assert second.toplora_A["default"].shape == (3, 5)
    assert first.scaling["default"] == pytest.approx(4 / 2**0.5)
    assert second.scaling["default"] == pytest.approx(16 / 3**0.5)


def test_an_adapter_that_is_added_later_is_not_trained_until_it_is_set():
    model = two_layers()
    model.add_adapter("b", TopLoraConfig(target_modules=["0", "1"], r=1))
    assert not any(p.requires_grad for n, p in model.named_parameters() if n.endswith(".b"))
    model.set_adapter("b")
    trained = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"b"}


def test_weighted_sums_of_adapters_are_refused():
    model = two_layers()
    with pytest.raises(UnsupportedByAdapterError, match="toplora adapters cannot be combined"):
        model.add_weighted_adapter(["default"], [1.0], "sum")


def test_a_module_that_is_not_linear_is_refused_by_its_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"^target_modules matches 1, a LayerNorm; only linear"):
        peft.get_peft_model(model, TopLoraConfig(target_modules=["1"]))


def test_mixed_batches_name_one_adapter_per_row_and_only_in_evaluation():
    model = two_layers()
    x = torch.randn(3, 6)
    with pytest.raises(ValueError, match="2 names for 3 rows"):
        model.base_model.model[0](x, adapter_names=["default"] * 2)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        model.train()(x, adapter_names=["default"] * 3)
    with pytest.raises(ValueError, match="contains other; the model has default"):
        model.eval()(x, adapter_names=["default", "other", "__base__"])


def test_active_adapters_add_up():
    model = two_layers()
    model.add_adapter("b", TopLoraConfig(target_modules=["0"], r=1))
    layer = model.base_model.model[0]
    with torch.no_grad():
        for adapter in ("default", "b"):
            layer.toplora_B[adapter].normal_()
    x = torch.randn(3, 6)
    updates = {adapter: layer.update(x, adapter) for adapter in ("default", "b")}
    model.base_model.set_adapter(["default", "b"])
    torch.testing.assert_close(layer(x), layer.base_layer(x) + updates["default"] + updates["b"])


def test_without_target_modules_query_key_and_value_are_adapted():
    model = peft.get_peft_model(tiny_model(), TopLoraConfig())
    adapted = {name.rpartition(".")[2] for name in model.base_model.targeted_module_names}
    assert adapted == {"q_proj", "k_proj", "v_proj"}


def test_an_adapter_that_merges_is_merged_while_one_that_does_not_is_active():
    model = two_layers()
    plain = TopLoraConfig(target_modules=["0", "1"], r=1, gate={"enabled": False})
    model.add_adapter("plain", plain)
    with pytest.raises(UnsupportedByAdapterError, match="TopLoRA cannot be merged"):
        model.base_model.merge_adapter()
    model.base_model.merge_adapter(["plain"])
    assert model.base_model.model[0].merged_adapters == ["plain"]
    model.base_model.unmerge_adapter()
    with pytest.raises(UnsupportedByAdapterError, match="TopLoRA cannot be merged"):
        model.merge_and_unload(adapter_names=["plain", "default"])
    assert isinstance(model.merge_and_unload(adapter_names=["plain"])[0], nn.Linear)
