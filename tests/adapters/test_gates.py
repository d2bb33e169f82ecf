import math

import pytest
import torch
from peft import PeftModel

from tests.adapters.test_contract import defaults
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.gates import (
    QUANTILES,
    fixed_gates,
    gate_statistics,
    gated_layers,
    gates_of,
    largest_gate,
    layer_gate,
)
from toplora_train.contract.subject import logits, shaken
from toplora_train.models.tiny import tiny_model

IDS = [5, 80, 33, 120, 80, 9, 200]


def toplora(**gate) -> PeftModel:
    settings = defaults("toplora")
    settings["gate"] = {**settings["gate"], **gate}
    return shaken(attach_adapter(tiny_model(), settings, seed=1))


@torch.no_grad()
def test_the_gates_are_those_of_a_direct_forward():
    model = toplora()
    hidden = model(input_ids=torch.tensor([IDS]), output_hidden_states=True).hidden_states
    found = gates_of(model, IDS)
    assert len(found) == 6
    for number, block in enumerate(model.base_model.model.model.layers):
        x = block.input_layernorm(hidden[number])[0]
        for name in ("q_proj", "k_proj", "v_proj"):
            layer = getattr(block.self_attn, name)
            z = x @ layer.toplora_theta["default"]
            root = (z.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
            expected = torch.exp(z / root * layer.toplora_gain["default"])
            own = found[f"model.layers.{number}.self_attn.{name}"]
            assert own.shape == (len(IDS), 8)
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reading_the_gates_leaves_no_hook_behind():
    model = toplora()
    before = logits(model)
    gates_of(model, IDS)
    assert not any(module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)


@pytest.mark.parametrize("activation", ["exp", "softplus", "sigmoid", "identity"])
@pytest.mark.parametrize("values", ["one", "mean"])
@torch.no_grad()
def test_fixed_gates_are_the_lora_with_a_scaled_by_them(activation: str, values: str):
    model = toplora(activation=activation)
    means = {name: gates.mean(0) for name, gates in gates_of(model, IDS).items()}
    lora = attach_adapter(tiny_model(), defaults("lora"), seed=1)
    for name, layer in gated_layers(model).items():
        own = lora.base_model.model.get_submodule(name)
        scale = means[name] if values == "mean" else torch.ones(8)
        own.lora_A["default"].weight.copy_(scale[:, None] * layer.toplora_A["default"])
        own.lora_B["default"].weight.copy_(layer.toplora_B["default"])
    before, expected = logits(model), logits(lora)
    with fixed_gates(model, means if values == "mean" else None):
        fixed = logits(model)
    torch.testing.assert_close(fixed, expected, atol=1e-4, rtol=1e-4)
    assert (fixed - before).abs().max() > 1e-3
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)


def test_fixed_gates_are_undone_after_an_error():
    model = toplora()
    before = logits(model)
    zeros = {name: torch.zeros(8) for name in gated_layers(model)}
    with pytest.raises(RuntimeError, match="stopped"), fixed_gates(model, zeros):
        raise RuntimeError("stopped")
    torch.testing.assert_close(logits(model), before, atol=0, rtol=0)


def test_statistics_over_tokens_are_numpys():
    np = pytest.importorskip("numpy")
    gates = torch.rand(50, 3, generator=torch.Generator().manual_seed(2)) * 4
    found = gate_statistics(gates, torch.full((3,), math.inf))
    values = gates.double().numpy()
    np.testing.assert_allclose(found["mean"], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["deviation"], values.std(0), rtol=1e-12)
    np.testing.assert_allclose(found["quantiles"], np.quantile(values, QUANTILES, axis=0).T)
    assert found["dead"] == found["saturated"] == []


def test_a_closed_and_a_saturated_direction_are_named_counted_from_one():
    tokens = torch.ones(100, 3)
    tokens[:, 1] = 0.01
    tokens[:4, 1] = 1.0  # some tokens may differ
    tokens[:, 2] = 0.97
    found = gate_statistics(tokens, torch.tensor([2.0, 1.0, 1.0]))
    assert (found["dead"], found["saturated"]) == ([2], [3])
    tokens[:6, 1] = 1.0
    assert gate_statistics(tokens, torch.ones(3) * 2)["dead"] == []


@pytest.mark.parametrize("activation", ["exp", "softplus", "sigmoid", "identity"])
@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
@torch.no_grad()
def test_no_gate_exceeds_its_bound_and_the_bound_is_reached(activation: str, norm: str):
    model = toplora(activation=activation, norm=norm)
    for name, gates in gates_of(model, IDS).items():
        assert (gates <= largest_gate(gated_layers(model)[name]) * (1 + 1e-6)).all()
    if norm == "none":
        return
    layer = next(iter(gated_layers(model).values()))
    x = torch.zeros(1, 64)
    x[0, 0] = 1
    layer.toplora_theta["default"].zero_()
    layer.toplora_theta["default"][0, 3] = 1e3 * float(layer.toplora_gain["default"][3].sign())
    reached = layer_gate(layer, x, "default")[0, 3]
    assert float(reached) == pytest.approx(float(largest_gate(layer)[3]), rel=1e-4)


def test_without_a_gate_there_is_none_to_read():
    assert gated_layers(toplora(enabled=False)) == {}
    assert gates_of(toplora(enabled=False), IDS) == {}
