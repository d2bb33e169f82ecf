"""TopLoRA against the authors' numbers, a float64 oracle and plain LoRA."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.base import UnsupportedByAdapterError
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.adapters.toplora import (
    GateSettings,
    TopLoraConfig,
    TopLoraLinear,
    gate_of,
    peft_config,
)
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

GOLDENS = ("toplora_fp32", "toplora_rslora_fp32", "toplora_bf16")


def adapted_linear(
    in_features: int = 24,
    out_features: int = 40,
    *,
    base: nn.Linear | None = None,
    **settings,
) -> TopLoraLinear:
    """One adapted layer without zeros, so that no gradient vanishes."""
    torch.manual_seed(3)
    base = nn.Linear(in_features, out_features) if base is None else base
    base.requires_grad_(False)
    layer = TopLoraLinear(base, "default", TopLoraConfig(**settings), "linear")
    with torch.no_grad():
        for name in layer.adapter_layer_names:
            for tensor in getattr(layer, name).values():
                tensor.add_(torch.randn_like(tensor) / 4)
    return layer


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("golden", GOLDENS)
def test_outputs_and_all_gradients_equal_the_authors_code(golden: str, shared_dir: Path):
    folder = shared_dir / "goldens"
    made_with = json.loads((folder / "index.json").read_text())[golden]
    tensors = load_file(folder / f"{golden}.safetensors")
    tolerance = 2e-2 if golden.endswith("bf16") else 1e-5

    base = nn.Linear(made_with["in_features"], made_with["out_features"])
    base.weight = nn.Parameter(tensors["base_weight"])
    base.bias = nn.Parameter(tensors["base_bias"])
    settings = {key: made_with[key] for key in ("r", "alpha", "use_rslora", "dropout")}
    layer = adapted_linear(base=base, **settings)
    parameters = {
        "A": layer.toplora_A["default"],
        "B": layer.toplora_B["default"],
        "gate_weight": layer.toplora_theta["default"],
        "rms_weight": layer.toplora_gain["default"],
    }
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    x = tensors["x"].clone().requires_grad_()
    y = layer(x)
    y.backward(tensors["grad_y"])

    assert layer.scaling["default"] == pytest.approx(made_with["scaling"])
    assert y.dtype == tensors["y"].dtype
    gate = gate_of(
        tensors["x"] @ tensors["gate_weight"],
        tensors["rms_weight"],
        activation="exp",
        norm="rms",
        epsilon=GateSettings().epsilon,
    )
    assert relative_error(gate, tensors["gate"]) < tolerance
    assert relative_error(y, tensors["y"]) < tolerance
    assert relative_error(x.grad, tensors["grad_x"]) < tolerance
    for name, parameter in parameters.items():
        assert relative_error(parameter.grad, tensors[f"grad_{name}"]) < tolerance, name


def written_out(layer: TopLoraLinear, x: torch.Tensor, gate: GateSettings) -> torch.Tensor:
    """The paper's equation, token by token."""
    A, B = layer.toplora_A["default"], layer.toplora_B["default"]
    theta = layer.toplora_theta["default"]
    rows = []
    for token in x.reshape(-1, x.shape[-1]):
        t = token @ theta
        if gate.norm == "rms":
            t = t / (t.square().mean() + gate.epsilon).sqrt()
        elif gate.norm == "layer":
            t = (t - t.mean()) / (t.var(correction=0) + gate.epsilon).sqrt()
        if gate.norm != "none":
            t = t * layer.toplora_gain["default"]
        weights = {
            "exp": lambda t: t.exp(),
            "softplus": lambda t: (1 + t.exp()).log(),
            "sigmoid": lambda t: 1 / (1 + (-t).exp()),
            "identity": lambda t: t,
        }[gate.activation](t)
        base = layer.base_layer.weight @ token + layer.base_layer.bias
        rows.append(base + layer.scaling["default"] * (B @ ((A @ token) * weights)))
    return torch.stack(rows).reshape(*x.shape[:-1], -1)


@pytest.mark.parametrize("activation", ["exp", "softplus", "sigmoid", "identity"])
@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
@pytest.mark.parametrize("eps", [None, 1e-5, "paper-bf16"])
def test_every_gate_computes_the_equation(activation: str, norm: str, eps: float | str | None):
    gate = {"activation": activation, "norm": norm, "eps": eps}
    layer = adapted_linear(r=4, gate=gate).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    assert relative_error(layer(x), written_out(layer, x, GateSettings(**gate))) < 1e-12


@pytest.mark.parametrize("norm", ["rms", "layer", "none"])
def test_gradients_agree_with_finite_differences(norm: str):
    layer = adapted_linear(6, 5, r=3, gate={"norm": norm}).double()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    parameters = tuple(p for p in layer.parameters() if p.requires_grad)
    assert len(parameters) == (3 if norm == "none" else 4)
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *parameters))


def test_one_pass_over_x_and_the_dropout_path_compute_the_same():
    layer = adapted_linear(r=4, dropout=0.5)
    x = torch.randn(3, 24)
    in_one_pass = layer.eval()(x)
    layer.train()
    layer.toplora_dropout["default"].p = 0.0  # still the path with two products
    assert relative_error(layer(x), in_one_pass) < 1e-6


def test_the_gate_sees_x_without_dropout():
    layer = adapted_linear(r=4, dropout=0.5).train()
    with torch.no_grad():
        layer.toplora_A["default"].fill_(0.0)
        layer.toplora_A["default"][:, 0] = 1.0  # A drop(x) is 0 or 2 x_0, in every direction of r
        layer.base_layer.weight.zero_()
        layer.base_layer.bias.zero_()
    x = torch.randn(1, 24).expand(64, -1)
    kept = layer.eval()(x)[0] * 2
    rows = layer.train()(x)
    is_zero = rows.abs().amax(dim=1) == 0
    assert 0 < int(is_zero.sum()) < 64
    torch.testing.assert_close(rows[~is_zero], kept.expand(int((~is_zero).sum()), -1))


def test_the_update_is_exactly_zero_at_the_start():
    base = nn.Linear(24, 40)
    layer = TopLoraLinear(base, "default", TopLoraConfig(r=4), "linear")
    x = torch.randn(7, 24)
    assert torch.equal(layer(x), base(x))


def test_a_and_theta_have_the_same_initial_distribution_and_the_log_gate_rms_one():
    layer = TopLoraLinear(nn.Linear(400, 40), "default", TopLoraConfig(r=16), "linear")
    for tensor in (layer.toplora_A["default"], layer.toplora_theta["default"]):
        assert tensor.abs().max() <= 400**-0.5
        assert tensor.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.05)
    log_gate = torch.nn.functional.rms_norm(
        torch.randn(50, 400) @ layer.toplora_theta["default"], (16,)
    )
    torch.testing.assert_close(log_gate.square().mean(dim=1), torch.ones(50))


def lora_layer_with_the_same_a_and_b(layer: TopLoraLinear) -> nn.Module:
    holder = nn.Sequential(nn.Linear(24, 40))
    holder[0].load_state_dict(layer.base_layer.state_dict())
    config = layer.configs["default"]
    lora = peft.get_peft_model(
        holder,
        peft.LoraConfig(
            r=config.r, lora_alpha=config.alpha, use_rslora=config.use_rslora, target_modules=["0"]
        ),
    )
    linear = lora.base_model.model[0]
    with torch.no_grad():
        linear.lora_A["default"].weight.copy_(layer.toplora_A["default"])
        linear.lora_B["default"].weight.copy_(layer.toplora_B["default"])
    return lora


@pytest.mark.parametrize("use_rslora", [False, True])
def test_without_gate_it_is_pefts_lora(use_rslora: bool):
    layer = adapted_linear(r=4, use_rslora=use_rslora, gate={"enabled": False})
    assert not layer.toplora_theta
    assert not layer.toplora_gain
    x = torch.randn(5, 24)
    assert relative_error(layer(x), lora_layer_with_the_same_a_and_b(layer)(x)) < 1e-6


def test_with_theta_zero_it_is_pefts_lora():
    layer = adapted_linear(r=4)
    with torch.no_grad():
        layer.toplora_theta["default"].zero_()
    x = torch.randn(5, 24)
    assert relative_error(layer(x), lora_layer_with_the_same_a_and_b(layer)(x)) < 1e-6


def test_theta_can_start_at_zero():
    layer = TopLoraLinear(
        nn.Linear(8, 8), "default", TopLoraConfig(r=2, gate={"init": "zeros"}), "linear"
    )
    assert not layer.toplora_theta["default"].any()


def test_extra_parameters_over_lora_are_r_n_plus_r():
    counts = [
        sum(p.numel() for p in adapted_linear(r=4, gate=gate).parameters() if p.requires_grad)
        for gate in ({}, {"enabled": False})
    ]
    assert counts[0] - counts[1] == 4 * 24 + 4


def test_sixteen_bit_adapters_gate_in_float32():
    logits = torch.randn(6, 8, dtype=torch.bfloat16)
    gate = gate_of(logits, torch.ones(8).bfloat16(), activation="exp", norm="rms", epsilon=1e-6)
    assert gate.dtype == torch.float32
    exact = gate_of(logits.double(), None, activation="exp", norm="rms", epsilon=1e-6)
    assert relative_error(gate, exact) < 1e-6


def test_autocast_agrees_with_float32_within_its_precision():
    layer = adapted_linear(r=4)
    x = torch.randn(5, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert relative_error(y, layer(x)) < 2e-2


def test_merging_is_refused_with_the_reason_and_the_alternatives():
    layer = adapted_linear(r=4)
    for merge in (layer.merge, lambda: layer.get_delta_weight("default")):
        with pytest.raises(UnsupportedByAdapterError, match=r"depends on each token.*adapter=lora"):
            merge()
    assert not layer.supports_lora_conversion()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "r must be a positive integer, not 0"),
        ({"r": True}, "r must be a positive integer, not True"),
        ({"r": 2.0}, r"r must be a positive integer, not 2\.0"),
        ({"alpha": -1}, "alpha must be a positive number, not -1"),
        ({"alpha": float("nan")}, "alpha must be a positive number, not nan"),
        ({"dropout": 1.0}, r"dropout must be a number from 0 to below 1, not 1\.0"),
        ({"use_rslora": 1}, "use_rslora must be true or false, not 1"),
        ({"target_modules": []}, "target_modules must name at least one module"),
        ({"target_modules": "(q"}, r"target_modules is not a regular expression: '\(q'"),
        ({"target_modules": [1]}, "target_modules must be a list of module names"),
        ({"layers_to_transform": [-1]}, "layers_to_transform must hold layer indices from 0"),
        (
            {"layers_to_transform": 1, "target_modules": ".*q"},
            "layers_to_transform needs target_modules as a list",
        ),
        ({"rank_pattern": {"q": 0}}, r"rank_pattern\.q must be a positive integer, not 0"),
        ({"alpha_pattern": ["q"]}, "alpha_pattern must map module names to values"),
        ({"modules_to_save": "head"}, "modules_to_save must be a list of module names, not 'head'"),
        ({"gate": 1}, "gate must be a mapping of gate settings, not 1"),
        (
            {"gate": {"activatoin": "exp"}},
            r"gate\.activatoin is not a setting .* it has activation,",
        ),
        (
            {"gate": {"activation": "relu"}},
            r"gate\.activation must be one of exp, softplus, sigmoid",
        ),
        ({"gate": {"norm": None}}, r"gate\.norm must be one of rms, layer, none, not None"),
        ({"gate": {"init": "ones"}}, r"gate\.init must be one of kaiming, zeros, not 'ones'"),
        ({"gate": {"eps": 0}}, r"gate\.eps must be a positive number, not 0"),
        ({"gate": {"eps": "bf16"}}, r"gate\.eps must be a positive number, null or 'paper-bf16'"),
        ({"gate": {"enabled": "no"}}, r"gate\.enabled must be true or false, not 'no'"),
        ({"rnak": 4}, "rnak is not a setting of this adapter; it has alpha, alpha_pattern"),
        ({"peft_type": "LORA"}, "peft_type is not a setting"),
    ],
)
def test_a_bad_setting_is_refused_by_a_message_that_begins_with_its_key(
    settings: dict, message: str
):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        peft_config(settings)


def test_the_gates_epsilon_is_float32s_for_every_dtype_by_default():
    assert GateSettings().epsilon == torch.finfo(torch.float32).eps
    assert GateSettings(eps="paper-bf16").epsilon == torch.finfo(torch.bfloat16).eps
    assert GateSettings(eps=1e-3).epsilon == 1e-3


def test_a_file_without_gate_tensors_is_refused_and_not_loaded_as_lora(tmp_path):
    save_adapter(attach_adapter(tiny_model(), {"name": "toplora"}, seed=1), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if name.endswith(("_A", "_B"))}
    assert len(kept) == len(tensors) // 2
    save_file(kept, file)
    with pytest.raises(UserError, match=r"missing: .*toplora_gain.* and 9 more"):
        load_adapter(tiny_model(), tmp_path)
