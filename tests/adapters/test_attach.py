"""Attaching adapters: targets, dtypes, and error messages."""

from types import SimpleNamespace

import pytest
import torch
from peft import PeftConfig

from toplora_train.adapters import attach
from toplora_train.adapters._peft import layer, lora
from toplora_train.adapters.attach import (
    _errors_named,
    adapter_module,
    attach_adapter,
    kernel_sentence,
)
from toplora_train.adapters.describe import trainable_parameters_by_module
from toplora_train.adapters.fused import fused_linear
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model

LINEAR = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"


@pytest.mark.parametrize("name", ["lora", "dora", "toplora"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 0}, "adapter.r must be a positive integer, not 0"),
        ({"r": "8"}, "adapter.r must be a positive integer, not '8'"),
        ({"dropout": 2}, "adapter.dropout must be a number from 0 to below 1, not 2"),
        (
            {"target_modules": ["q_proj", "q_prj"]},
            "adapter.target_modules names 'q_prj', which matches no module of the model; "
            f"its linear layers are {LINEAR}",
        ),
        (
            {"exclude_modules": "nothing"},
            "adapter.exclude_modules names 'nothing', which matches no module of the model; "
            f"its linear layers are {LINEAR}",
        ),
        (
            {"layers_to_transform": [1, 9]},
            "adapter.layers_to_transform names layer 9, but the model has 0 to 1",
        ),
        (
            {"layers_to_transform": 1, "target_modules": "all-linear"},
            "adapter.layers_to_transform needs target_modules as a list of names, "
            "not 'all-linear', which names the layers itself",
        ),
        (
            {"rank_pattern": {"o_proj": 4}},
            "adapter.rank_pattern names 'o_proj', which matches no adapted module",
        ),
        (
            {"alpha_pattern": {"o_proj": 4}},
            "adapter.alpha_pattern names 'o_proj', which matches no adapted module",
        ),
        ({"dtype": "int8"}, "adapter.dtype must be one of auto, float32, bfloat16, float16, not"),
    ],
)
def test_a_bad_setting_is_one_line_that_names_it(name: str, settings: dict, message: str):
    with pytest.raises(UserError) as refusal:
        attach_adapter(tiny_model(), {"name": name, **settings}, seed=1)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_a_nested_setting_is_named_by_its_full_key():
    settings = {"name": "toplora", "gate": {"activation": "relu"}}
    with pytest.raises(UserError, match=r"^adapter\.gate\.activation must be one of exp, softplus"):
        attach_adapter(tiny_model(), settings, seed=1)


@pytest.mark.parametrize("name", ["nosuch", "base", "attach", "../lora", ""])
def test_an_unknown_adapter_is_refused_with_the_known_ones(name: str):
    with pytest.raises(
        UserError, match=f"^adapter={name}: there is no such adapter; known: .*toplora"
    ):
        adapter_module(name)


@pytest.mark.parametrize(
    ("target_modules", "adapted"),
    [
        (None, {"q_proj", "k_proj", "v_proj"}),
        (["up_proj"], {"up_proj"}),
        (r".*\.[ko]_proj", {"k_proj", "o_proj"}),
        ("all-linear", set(LINEAR.split(", ")) - {"lm_head"}),
    ],
)
@pytest.mark.parametrize("name", ["lora", "toplora"])
def test_targets_are_a_list_a_regular_expression_all_linear_or_the_default(
    name, target_modules, adapted
):
    settings = {"name": name, "target_modules": target_modules}
    model = attach_adapter(tiny_model(), settings, seed=1)
    assert set(trainable_parameters_by_module(model)) == adapted


@pytest.mark.parametrize("name", ["lora", "dora", "toplora"])
def test_a_single_module_name_needs_no_brackets(name: str):
    bare, listed = (
        attach_adapter(tiny_model(), {"name": name, "target_modules": one}, seed=1)
        for one in ("q_proj", ["q_proj"])
    )
    assert trainable_parameters_by_module(bare) == trainable_parameters_by_module(listed)


def test_a_single_module_name_needs_no_brackets_with_peft_methods():
    settings = {"name": "peft", "peft_type": "LOHA", "settings": {"target_modules": "q_proj"}}
    assert trainable_parameters_by_module(attach_adapter(tiny_model(), settings, seed=1))


def test_layers_and_exclusions_restrict_the_targets():
    settings = {"name": "toplora", "layers_to_transform": [1], "exclude_modules": ["k_proj"]}
    model = attach_adapter(tiny_model(), settings, seed=1)
    assert sorted(model.base_model.targeted_module_names) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_the_task_type_follows_the_model():
    model = attach_adapter(tiny_model(), {"name": "toplora"}, seed=1)
    assert type(model).__name__ == "PeftModelForCausalLM"
    assert model.peft_config["default"].task_type == "CAUSAL_LM"


def test_attaching_emits_no_warning_and_changes_no_setting():
    settings = {"name": "toplora", "gate": {"eps": None}, "target_modules": ["q_proj"]}
    attach_adapter(tiny_model(), settings, seed=1)  # warnings are errors here
    assert settings == {"name": "toplora", "gate": {"eps": None}, "target_modules": ["q_proj"]}


def test_a_rank_beyond_the_memory_is_one_line():
    line = r"adapter=lora: .*lower adapter\.r \(now 9\)"
    with pytest.raises(UserError, match=line), _errors_named("lora", {"r": 9}):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")
    with pytest.raises(RuntimeError, match="another"), _errors_named("lora", {"r": 9}):
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("changes", "compiled", "expected"),
    [
        ({}, False, "adapter: 6 of 6 layers fused with their frozen layers"),
        ({"kernel": "peft"}, False, "adapter: 6 layers, composed of PyTorch's operations"),
        ({}, True, "adapter: 6 layers, composed of PyTorch's operations"),
    ],
)
@pytest.mark.parametrize("name", ["lora", "toplora"])  # DoRA with dropout is composed
def test_a_run_says_how_its_layers_are_computed(name, changes, compiled, expected):
    model = attach_adapter(tiny_model(), adapter_defaults(name)[0] | changes, seed=0)
    assert kernel_sentence(model, compiled=compiled) == expected


@pytest.mark.parametrize("name", ["lora", "toplora"])
@pytest.mark.parametrize(
    ("changes", "autocast", "expected"),
    [
        ({"dtype": "bfloat16"}, False, "composed"),  # it is narrower than the base model
        ({"dtype": "bfloat16"}, True, "fused"),
        ({"dtype": "float32"}, True, "fused"),
    ],
)
def test_the_sentence_is_true_of_a_forward_pass(name, changes, autocast, expected, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return fused_linear(*args)

    for module in (lora, layer):
        monkeypatch.setattr(module, "fused_linear", counted)
    settings = adapter_defaults(name)[0] | changes
    model = attach_adapter(tiny_model(), settings, seed=0).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert expected in str(kernel_sentence(model, compiled=False))
        model(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert len(calls) == (6 if expected == "fused" else 0)


def test_dora_is_fused_with_the_factored_norm_and_without_dropout():
    for norm, dropout, expected in [("factored", 0.0, "fused"), ("factored", 0.1, "composed")]:
        changes = {"norm": norm, "dropout": dropout}
        model = attach_adapter(tiny_model(), adapter_defaults("dora")[0] | changes, seed=0)
        assert expected in str(kernel_sentence(model, compiled=False))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "must return a PeftConfig, not NoneType"),
        (PeftConfig(peft_type="MINE"), "PEFT knows no method MINE; call register_method"),
    ],
)
def test_a_module_of_ones_own_that_gives_no_method_is_named(monkeypatch, config, message):
    module = SimpleNamespace(__file__="own/adapter/mine.py", peft_config=lambda _settings: config)
    monkeypatch.setattr(attach, "plugin", lambda *_: module)
    with pytest.raises(UserError, match=f"own/adapter/mine.py: .*{message}"):
        attach.attach_adapter(tiny_model(), {"name": "mine"}, seed=1)
