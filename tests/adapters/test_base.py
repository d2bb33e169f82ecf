"""The shared base: the enumeration, several adapters, what is refused, quantised base layers."""

import copy
import pickle

import peft
import pytest
import torch
from peft import PeftType
from torch import nn

from toplora_train.adapters.base import (
    AdapterLinear,
    AdapterModel,
    UnsupportedByAdapterError,
    add_peft_type,
    register_method,
)
from toplora_train.adapters.toplora import TopLoraConfig, TopLoraLinear, TopLoraModel
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def test_the_new_member_behaves_as_the_built_in_ones_do():
    member = PeftType.TOPLORA
    assert member is PeftType("TOPLORA") is PeftType["TOPLORA"]
    assert member == "TOPLORA"
    assert hash(member) == hash("TOPLORA")
    assert member in list(PeftType)
    assert "TOPLORA" in PeftType.__members__
    assert (member.name, member.value) == ("TOPLORA", "TOPLORA")
    assert repr(member) == "<PeftType.TOPLORA: 'TOPLORA'>"
    assert pickle.loads(pickle.dumps(member)) is member
    assert copy.copy(member) is copy.deepcopy(member) is member
    with pytest.raises(AttributeError):
        PeftType.TOPLORA = "other"


def test_registering_twice_changes_nothing():
    before = list(PeftType)
    add_peft_type("TOPLORA")
    register_method("toplora", TopLoraConfig, TopLoraModel)
    assert list(PeftType) == before


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


def test_a_refusal_is_a_users_error_and_a_not_implemented_error():
    assert issubclass(UnsupportedByAdapterError, UserError)
    assert issubclass(UnsupportedByAdapterError, NotImplementedError)


def test_mixed_batches_name_one_adapter_per_row_and_only_in_evaluation():
    model = two_layers()
    x = torch.randn(3, 6)
    with pytest.raises(ValueError, match="2 names for 3 rows"):
        model.base_model.model[0](x, adapter_names=["default"] * 2)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        model.train()(x, adapter_names=["default"] * 3)
    with pytest.raises(ValueError, match="holds other; the model has default"):
        model.eval()(x, adapter_names=["default", "other", "__base__"])


def test_a_module_that_is_not_linear_is_refused_by_its_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"^target_modules matches 1, a LayerNorm; only linear"):
        peft.get_peft_model(model, TopLoraConfig(target_modules=["1"]))


class Int8Linear(nn.Module):
    """What a quantised layer looks like from outside: an integer weight and a forward."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.step = linear.weight.detach().abs().max().item() / 127
        weight = (linear.weight.detach() / self.step).round().to(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.step, self.bias)


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_a_quantised_base_layer_is_called_and_never_written():
    base = Int8Linear(nn.Linear(6, 5))
    layer = TopLoraLinear(base, "default", TopLoraConfig(r=2), "q")
    assert layer.toplora_A["default"].dtype == torch.float32
    nn.init.normal_(layer.toplora_B["default"])
    x = torch.randn(4, 6, requires_grad=True)
    torch.testing.assert_close(layer(x), base(x) + layer.update(x, "default"))
    layer(x).sum().backward()
    assert layer.toplora_A["default"].grad.abs().sum() > 0


class PlainLinear(AdapterLinear):
    """The smallest method: a dense update, which merges."""

    prefix = "plain_"
    adapter_layer_names = ("plain_delta",)

    def initial_tensors(self, config, module_name):
        del config, module_name
        return {"plain_delta": torch.zeros(self.out_features, self.in_features)}

    def update(self, x, adapter_name):
        delta = self.plain_delta[adapter_name]
        return nn.functional.linear(
            self.dropout(adapter_name)(x), self.scaling[adapter_name] * delta
        )

    def get_delta_weight(self, adapter_name):
        return self.scaling[adapter_name] * self.plain_delta[adapter_name]


class PlainModel(AdapterModel):
    prefix = "plain_"
    tuner_layer_cls = PlainLinear


def plain_layer(base: nn.Module | None = None) -> PlainLinear:
    torch.manual_seed(0)
    base = nn.Linear(6, 5) if base is None else base
    layer = PlainLinear(base, "default", TopLoraConfig(r=2), "q")
    nn.init.normal_(layer.plain_delta["default"])
    return layer


def test_a_method_is_its_tensors_and_its_update_and_merges_by_its_delta_weight():
    layer = plain_layer()
    x = torch.randn(3, 6)
    expected = layer(x)
    weight = layer.base_layer.weight.clone()
    assert layer.supports_lora_conversion()
    layer.merge(safe_merge=True)
    assert layer.merged
    torch.testing.assert_close(layer.base_layer(x), expected)
    torch.testing.assert_close(layer(x), expected)
    with pytest.raises(ValueError, match="unmerge first"):
        layer(x, adapter_names=["default"] * 3)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight, weight)
    layer.merge()
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.base_layer.bias))
    assert not layer.merged


def test_a_merge_that_would_not_be_finite_leaves_the_weight_alone():
    layer = plain_layer()
    weight = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.plain_delta["default"][0, 0] = torch.inf
    with pytest.raises(ValueError, match="'default' would give a weight that is not finite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)
    assert not layer.merged


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
def test_merging_into_a_quantised_layer_is_refused_with_the_remedy():
    layer = plain_layer(Int8Linear(nn.Linear(6, 5)))
    with pytest.raises(UnsupportedByAdapterError, match="load the base model in 16 or 32 bits"):
        layer.merge()


def test_dropout_acts_in_training_only():
    layer = PlainLinear(nn.Linear(6, 5), "default", TopLoraConfig(r=2, dropout=0.5), "q")
    nn.init.normal_(layer.plain_delta["default"])
    x = torch.randn(3, 6)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


def test_the_base_weights_of_a_model_on_the_meta_device_stay_there():
    with torch.device("meta"):
        base = nn.Linear(6, 5)
    layer = TopLoraLinear(base, "default", TopLoraConfig(r=2), "q")
    assert all(parameter.is_meta for parameter in layer.parameters())


def test_an_input_of_another_dtype_is_cast_unless_that_is_switched_off():
    layer = plain_layer(nn.Linear(6, 5).bfloat16())
    layer.plain_delta["default"].data = layer.plain_delta["default"].data.float()
    x = torch.randn(3, 6).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    layer.cast_input_dtype_enabled = False
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)


def test_without_target_modules_query_key_and_value_are_adapted():
    model = peft.get_peft_model(tiny_model(), TopLoraConfig())
    adapted = {name.rpartition(".")[2] for name in model.base_model.targeted_module_names}
    assert adapted == {"q_proj", "k_proj", "v_proj"}
