"""The adapted layer: dtypes, quantised base layers, merging and unmerging."""

import pytest
import torch
from torch import nn

from toplora_train.adapters._peft.layer import AdapterLinear, UnsupportedByAdapterError
from toplora_train.adapters.toplora import TopLoraConfig, TopLoraLinear
from toplora_train.config.errors import UserError


def test_a_refusal_is_a_users_error_and_a_not_implemented_error():
    assert issubclass(UnsupportedByAdapterError, UserError)
    assert issubclass(UnsupportedByAdapterError, NotImplementedError)


class Int8Linear(nn.Module):
    """A minimal quantised layer: an integer weight and a forward."""

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


def plain_layer(base: nn.Module | None = None) -> PlainLinear:
    torch.manual_seed(0)
    base = nn.Linear(6, 5) if base is None else base
    layer = PlainLinear(base, "default", TopLoraConfig(r=2), "q")
    nn.init.normal_(layer.plain_delta["default"])
    return layer


def test_a_method_needs_only_tensors_and_an_update_and_merges_by_its_delta_weight():
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


def test_a_merge_with_nan_or_inf_does_not_change_the_weight():
    layer = plain_layer()
    weight = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.plain_delta["default"][0, 0] = torch.inf
    with pytest.raises(
        ValueError, match="merging adapter 'default' gives a weight with NaN or inf"
    ):
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


def test_base_weights_on_the_meta_device_stay_there():
    with torch.device("meta"):
        base = nn.Linear(6, 5)
    layer = TopLoraLinear(base, "default", TopLoraConfig(r=2), "q")
    assert all(parameter.is_meta for parameter in layer.parameters())


def test_an_input_of_another_dtype_is_cast_unless_disabled():
    layer = plain_layer(nn.Linear(6, 5).bfloat16())
    layer.plain_delta["default"].data = layer.plain_delta["default"].data.float()
    x = torch.randn(3, 6).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    layer.cast_input_dtype_enabled = False
    with pytest.raises(RuntimeError, match="dtype"):
        layer(x)


class RelativeLinear(PlainLinear):
    """An update that depends on the base weight, ``x (W0 * delta).T``, as in HiRA."""

    prefix = "relative_"

    def get_delta_weight(self, adapter_name):
        return self.get_base_weight() * super().get_delta_weight(adapter_name)

    def update(self, x, adapter_name):
        return x @ self.get_delta_weight(adapter_name).T


def two_adapters(kind: type[PlainLinear], dtype: torch.dtype) -> PlainLinear:
    torch.manual_seed(0)
    config = TopLoraConfig(r=2, alpha=2)
    layer = kind(nn.Linear(6, 5, dtype=dtype), "default", config, "q")
    layer.update_layer("b", config, "q")
    for adapter in ("default", "b"):
        nn.init.normal_(layer.plain_delta[adapter])
    layer.set_adapter(["default", "b"])
    return layer


@pytest.mark.parametrize("kind", [PlainLinear, RelativeLinear])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_unmerging_restores_the_weight_exactly_even_if_the_update_depends_on_it(kind, dtype):
    layer = two_adapters(kind, dtype)
    weight = layer.base_layer.weight.clone()
    for _ in range(3):
        layer.merge(adapter_names=["b"])
        assert not torch.equal(layer.base_layer.weight, weight)
        layer.unmerge()
        assert torch.equal(layer.base_layer.weight, weight)
        assert not layer.merged


@pytest.mark.parametrize("kind", [PlainLinear, RelativeLinear])
def test_merged_adapters_add_up_in_one_call_or_in_two(kind):
    layer = two_adapters(kind, torch.float64)
    x = torch.randn(3, 6, dtype=torch.float64)
    weight, expected = layer.base_layer.weight.clone(), layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), expected)
    at_once = layer.base_layer.weight.clone()
    layer.unmerge()
    layer.merge(adapter_names=["default"])
    with pytest.warns(UserWarning, match="additionally merging b"):
        layer.merge(adapter_names=["b"])
    assert layer.merged_adapters == ["default", "b"]
    assert torch.equal(layer.base_layer.weight, at_once)
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, weight)


def test_a_second_merge_that_fails_leaves_the_first_one_in_place():
    layer = two_adapters(RelativeLinear, torch.float64)
    layer.merge(adapter_names=["default"])
    merged = layer.base_layer.weight.clone()
    with torch.no_grad():
        layer.plain_delta["b"][0, 0] = torch.nan
    with pytest.warns(match="additionally"), pytest.raises(ValueError, match=r"'b' gives .* NaN"):
        layer.merge(safe_merge=True, adapter_names=["b"])
    assert layer.merged_adapters == ["default"]
    assert torch.equal(layer.base_layer.weight, merged)


def test_unmerging_follows_the_weight_to_its_dtype():
    layer = two_adapters(PlainLinear, torch.float32)
    weight = layer.base_layer.weight.detach().clone()
    layer.merge()
    layer.bfloat16()
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, weight.bfloat16())
