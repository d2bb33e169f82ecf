"""Attaching and loading: what is refused, and in which words."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from toplora_train.adapters.attach import (
    adapter_module,
    attach_adapter,
    load_adapter,
    save_adapter,
    trainable_parameters_by_module,
)
from toplora_train.config.errors import RunFailure, UserError
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


def test_a_gates_setting_is_named_whole():
    settings = {"name": "toplora", "gate": {"activation": "relu"}}
    with pytest.raises(UserError, match=r"^adapter\.gate\.activation must be one of exp, softplus"):
        attach_adapter(tiny_model(), settings, seed=1)


@pytest.mark.parametrize("name", ["nosuch", "base", "attach", "../lora", ""])
def test_an_unknown_adapter_lists_those_there_are(name: str):
    with pytest.raises(
        UserError, match=f"^adapter={name}: there is no such adapter, but .*toplora"
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
def test_targets_are_a_list_an_expression_all_linear_or_the_default(name, target_modules, adapted):
    settings = {"name": name, "target_modules": target_modules}
    model = attach_adapter(tiny_model(), settings, seed=1)
    assert set(trainable_parameters_by_module(model)) == adapted


def test_layers_and_exclusions_narrow_the_targets():
    settings = {"name": "toplora", "layers_to_transform": [1], "exclude_modules": ["k_proj"]}
    model = attach_adapter(tiny_model(), settings, seed=1)
    assert sorted(model.base_model.targeted_module_names) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.self_attn.v_proj",
    ]


def test_a_task_fit_for_the_model_is_recorded():
    model = attach_adapter(tiny_model(), {"name": "toplora"}, seed=1)
    assert type(model).__name__ == "PeftModelForCausalLM"
    assert model.peft_config["default"].task_type == "CAUSAL_LM"


def test_attaching_warns_of_nothing_and_changes_no_setting():
    settings = {"name": "toplora", "gate": {"eps": None}, "target_modules": ["q_proj"]}
    attach_adapter(tiny_model(), settings, seed=1)  # warnings are errors here
    assert settings == {"name": "toplora", "gate": {"eps": None}, "target_modules": ["q_proj"]}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_adapter(attach_adapter(tiny_model(), {"name": "toplora"}, seed=1), tmp_path)
    return tmp_path


def test_a_file_without_its_gate_is_refused_by_name(saved: Path):
    file = saved / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "theta" not in k and "gain" not in k}, file)
    with pytest.raises(UserError, match=r"lacks .*k_proj\.toplora_gain, .* and 9 more$"):
        load_adapter(tiny_model(), saved)


def test_a_lora_file_is_no_toplora_file(saved: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("lora")
    save_adapter(attach_adapter(tiny_model(), {"name": "lora"}, seed=1), other)
    weights = "adapter_model.safetensors"
    (saved / weights).write_bytes((other / weights).read_bytes())
    with pytest.raises(UserError, match=r"lacks .*toplora_A.*it has besides .*lora_A"):
        load_adapter(tiny_model(), saved)


def test_another_rank_in_the_config_is_refused(saved: Path):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, "r": 4}))
    with pytest.raises(
        UserError, match=r"another shape .*toplora_A \(8, 64\) instead of \(4, 64\)"
    ):
        load_adapter(tiny_model(), saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "NOSUCH"}, "peft_type 'NOSUCH' is not known here"),
        ({"heads": 3}, r"Unexpected keyword arguments \['heads'\]"),
        ({"r": 0}, "r must be a positive integer, not 0"),
        ({"target_modules": ["nosuch"]}, "Target modules .*nosuch.* not found"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused(saved: Path, change: dict, message: str):
    config = json.loads((saved / "adapter_config.json").read_text())
    (saved / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message) as refusal:
        load_adapter(tiny_model(), saved)
    assert str(refusal.value).startswith(str(saved))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_or_torn_file_is_refused_by_name(saved: Path, file: str):
    whole = (saved / file).read_bytes()
    (saved / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{file}: not "):
        load_adapter(tiny_model(), saved)
    (saved / file).unlink()
    with pytest.raises(UserError, match=f"{file}: no such file; give the folder"):
        load_adapter(tiny_model(), saved)


def test_weights_that_would_have_to_be_unpickled_are_not_read(saved: Path):
    tensors = load_file(saved / "adapter_model.safetensors")
    torch.save(tensors, saved / "adapter_model.bin")
    (saved / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: no such file"):
        load_adapter(tiny_model(), saved)


def test_a_folder_that_cannot_be_written_is_a_failure_that_names_it(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    model = attach_adapter(tiny_model(), {"name": "lora"}, seed=1)
    with pytest.raises(RunFailure, match="file/adapter: the adapter could not be saved"):
        save_adapter(model, tmp_path / "file" / "adapter")


def test_the_same_adapter_is_the_same_file_whatever_order_a_set_has(tmp_path: Path):
    names = LINEAR.split(", ")[:7]
    for folder, order in (("a", names), ("b", names[::-1])):
        settings = {"name": "lora", "target_modules": order}
        save_adapter(attach_adapter(tiny_model(), settings, seed=1), tmp_path / folder)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(names)
