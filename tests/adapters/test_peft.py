"""PEFT's other methods: each trains, saves and loads; invalid settings are refused."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import (
    describe_adapter,
    trainable_parameters_by_module,
)
from toplora_train.adapters.peft import (
    UNMERGEABLE,
    UNSUPPORTED,
    peft_config,
    peft_methods,
    setting_names,
)
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_config, tiny_model

TARGETS = ["q_proj", "v_proj"]

METHODS: dict[str, dict[str, Any]] = {
    "BOFT": {"boft_block_size": 4, "target_modules": TARGETS},
    "C3A": {"block_size": 16, "target_modules": TARGETS},
    "DELORA": {"r": 4},
    "FOURIERFT": {"n_frequency": 50, "target_modules": TARGETS},
    "HRA": {"r": 4, "target_modules": "all-linear"},
    "IA3": {},
    "LILY": {"r": 4},
    "LN_TUNING": {},
    "LOHA": {"r": 4, "alpha": 8},
    "LOKR": {"r": 4},
    "LORA": {"r": 4, "use_dora": True, "target_modules": ".*(q|v)_proj"},
    "MISS": {"r": 4},
    "OFT": {"oft_block_size": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 16, "target_modules": ["q_proj"]},
    "TINYLORA": {},
    "VERA": {"r": 64},
    "WAVEFT": {"n_frequency": 64},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*:UserWarning:peft"),
]


def attached(method: str, base: LlamaForCausalLM | None = None, **own) -> PeftModel:
    settings = {"name": "peft", "peft_type": method, "settings": own or METHODS[method]}
    return attach_adapter(tiny_model() if base is None else base, settings, seed=1)


def token_ids() -> torch.Tensor:
    return torch.randint(2, 250, (2, 7), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(token_ids()).logits


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_saves_and_loads_to_the_same_logits(method: str, tmp_path: Path):
    model = attached(method)
    start = logits(model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.train()(input_ids=token_ids(), labels=token_ids()).loss.backward()
    assert trained
    assert all(parameter.grad is not None for parameter in trained.values())
    torch.optim.AdamW(trained.values(), lr=1e-2).step()
    expected = logits(model)
    assert not torch.allclose(expected, start, atol=1e-5)

    save_adapter(model, tmp_path)
    loaded = load_adapter(tiny_model(), tmp_path)
    assert torch.equal(logits(loaded), expected)
    assert describe_adapter(loaded) == describe_adapter(model)
    assert describe_adapter(model)["peft_type"] == method


@pytest.mark.parametrize("method", METHODS)
def test_the_reported_mergeability_is_true(method: str):
    model = attached(method)
    expected = logits(model)
    assert describe_adapter(model)["mergeable"] == (method not in UNMERGEABLE)
    if method in UNMERGEABLE:
        with pytest.raises(NotImplementedError):
            model.merge_adapter()
        return
    model.merge_adapter()
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_counted_without_weights(method: str):
    with torch.device("meta"):
        empty = LlamaForCausalLM(tiny_config())
    model = attached(method)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert attached(method, empty).get_nb_trainable_parameters()[0] == trainable
    assert sum(trainable_parameters_by_module(model).values()) == trainable


def test_the_initialisation_depends_on_the_seed_alone():
    starts = [peft.get_peft_model_state_dict(attached("LOHA")) for _ in range(2)]
    assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])


def test_default_targets_are_pefts():
    assert set(trainable_parameters_by_module(attached("IA3"))) == {"k_proj", "v_proj", "down_proj"}
    assert not any("proj" in name for name in trainable_parameters_by_module(attached("LN_TUNING")))


def test_a_method_may_be_named_in_lower_case():
    assert peft_config({"peft_type": "vera"}).peft_type == "VERA"


def test_every_supported_method_has_settings():
    for config in peft_methods().values():
        assert "target_modules" in setting_names(config)
        assert not {"peft_type", "task_type", "base_model_name_or_path"} & set(
            setting_names(config)
        )


@pytest.mark.parametrize(
    ("peft_type", "message"),
    [
        (None, r"^adapter\.peft_type is not set; PEFT's methods: .*LOHA, LOKR, .*VERA"),
        ("VEAR", r"^adapter\.peft_type is 'VEAR', which is not a .*; did you mean 'VERA'\? PEFT's"),
        (
            "PREFIX_TUNING",
            r"^adapter\.peft_type=PREFIX_TUNING is not supported: it learns a prompt",
        ),
        ("TOPLORA", r"^adapter\.peft_type=TOPLORA has its own group: use adapter=toplora$"),
        *((name, rf"^adapter\.peft_type={name} is not supported: ") for name in UNSUPPORTED),
    ],
)
def test_an_unknown_or_unsupported_method_is_refused(peft_type: str | None, message: str):
    settings = {"name": "peft", "peft_type": peft_type, "settings": {}, "dtype": "float32"}
    with pytest.raises(UserError, match=message):
        attach_adapter(tiny_model(), settings, seed=1)


@pytest.mark.parametrize(
    ("method", "own", "message"),
    [
        (
            "VERA",
            {"rr": 4},
            r"^unknown key 'adapter\.settings\.rr'; did you mean 'adapter\.settings\.r'\? "
            r"VERA takes: bias, .*vera_dropout$",
        ),
        (
            "VERA",
            {"rank": 4},
            r"^unknown key 'adapter\.settings\.rank'; did .* 'adapter\.settings\.r'",
        ),
        ("VERA", {"peft_type": "LORA"}, r"^unknown key 'adapter\.settings\.peft_type'"),
        ("VERA", {"r": "64"}, r"^adapter\.settings\.r must be int, not '64'$"),
        ("VERA", {"r": True}, r"^adapter\.settings\.r must be int, not True$"),
        (
            "LORA",
            {"bias": "some"},
            r"^adapter\.settings\.bias must be Literal\['none', 'all', 'lora_only'\], not 'some'$",
        ),
        ("VERA", {"r": 0}, r"^adapter\.settings\.r must be a positive integer, not 0$"),
        (
            "VERA",
            {"target_modules": ["qproj"]},
            r"^adapter\.settings\.target_modules names 'qproj'",
        ),
        (
            "LORA",
            {"init_lora_weights": "pissa"},
            r"^adapter\.settings\.init_lora_weights must be true, gaussian or orthogonal, not 'pi",
        ),
        (
            "LORA",
            {"target_modules": ".*q_proj", "layers_to_transform": 1},
            r"^adapter\.settings do not make a LORA: `layers_to_transform` cannot be used when",
        ),
        (
            "LORA",
            {"target_modules": ["q_proj"], "layer_replication": [[0, 1], [0, 2]]},
            r"^adapter\.settings\.layer_replication is not supported \(it repeats layers",
        ),
        (
            "LORA",
            {"target_modules": ["q_proj"], "megatron_config": {"a": 1}},
            r"^adapter\.settings\.megatron_config is not supported \(it imports Megatron\); leave",
        ),
        ("ROAD", {"group_size": 7}, r"^adapter\.settings do not make a ROAD: The group_size must"),
        ("ROAD", {"group_size": 48}, r"^adapter=peft: The out_features .* divisible by group_size"),
    ],
)
def test_an_unknown_or_invalid_setting_is_one_clear_error(
    method: str, own: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message):
        attached(method, **own)


def test_settings_that_are_not_a_mapping_are_refused():
    with pytest.raises(UserError, match=r"^adapter\.settings must be a group of keys, not 4$"):
        attach_adapter(tiny_model(), {"name": "peft", "peft_type": "VERA", "settings": 4}, seed=1)
