"""Trained adapters in the one form that a fusion weights."""

from pathlib import Path

import pytest
import torch

from tests.adapters.test_fusion import KINDS, attached
from toplora_train.adapters.experts import Expert, Factors, joined, read_experts
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.adapters.toplora import GateSettings, gate_of
from toplora_train.adapters.updates import adapted_layers
from toplora_train.contract.subject import logits, shaken
from toplora_train.models.tiny import tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_computes_what_the_adapter_does_and_reading_changes_no_model(
    kind: str, tmp_path: Path
):
    folder = tmp_path / "one" / "adapter"
    save_adapter(shaken(attached(*KINDS[kind]), size=0.05), folder)
    base = tiny_model()
    (expert,) = read_experts(base, [folder], "runs")
    assert expert.name == "one"
    assert torch.equal(logits(base), logits(tiny_model()))
    assert [type(m) for m in base.modules()] == [type(m) for m in tiny_model().modules()]
    layers = adapted_layers(load_adapter(tiny_model(), folder, kernel="peft").double())
    assert layers.keys() == expert.factors.keys()
    for name, layer in layers.items():
        one = expert.factors[name]
        x = torch.randn(3, layer.in_features, dtype=torch.float64)
        hidden = x @ one.A.double().T
        if one.theta is not None:
            gate = GateSettings(**expert.gate)
            own = {"activation": gate.activation, "norm": gate.norm, "epsilon": gate.epsilon}
            hidden = hidden * gate_of(x @ one.theta.double(), one.gain, **own)
        update = hidden @ one.B.double().T
        if one.change is not None:
            update = update + one.change * layer.base_layer(x)
        torch.testing.assert_close(update, layer(x) - layer.base_layer(x), atol=1e-6, rtol=1e-6)


def test_adapters_lie_side_by_side_with_zeros_where_one_has_nothing():
    torch.manual_seed(0)
    plain = Expert("plain", "", "LORA")
    plain.factors = {
        "x": Factors(torch.randn(2, 5), torch.randn(3, 2)),
        "y": Factors(torch.randn(1, 5), torch.randn(3, 1)),
    }
    gated = Expert("gated", "", "TOPLORA", gate={})
    gated.factors["x"] = Factors(
        torch.randn(4, 5), torch.randn(3, 4), torch.randn(5, 4), torch.randn(4)
    )
    dora = Expert("dora", "", "LORA")
    dora.factors["y"] = Factors(torch.randn(1, 5), torch.randn(3, 1), change=torch.randn(3))
    both = {name: joined([plain, gated, dora], name, 5, 3) for name in "xy"}
    for tensors in both.values():
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        assert shapes == {
            "A": (2 + 4 + 1, 5),
            "B": (3, 2 + 4 + 1),
            "theta": (5, 4),
            "gain": (4,),
            "change": (1, 3),
        }
    one, other = plain.factors["y"], dora.factors["y"]
    assert torch.equal(both["y"]["A"], torch.cat([one.A, torch.zeros(5, 5), other.A]))
    assert torch.equal(both["y"]["change"][0], other.change)
    assert not both["y"]["theta"].any() and not both["x"]["change"].any()
    assert torch.equal(both["x"]["theta"], gated.factors["x"].theta)
