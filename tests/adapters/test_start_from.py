"""Initialising an adapter from a saved one that computes the same."""

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForSequenceClassification

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.describe import adapter_state
from toplora_train.adapters.saving import save_adapter
from toplora_train.adapters.start_from import check_start, take_start, validate_own_init
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_config, tiny_model

WEIGHTS = "adapter_model.safetensors"


def settings(name: str, **changes: Any) -> dict[str, Any]:
    return {**adapter_defaults(name)[0], **changes}


def shaken(model: nn.Module) -> nn.Module:
    """With all trainable tensors perturbed."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.02 * noise.to(parameter.dtype))
    return model


def saved(folder: Path, made_with: dict[str, Any]) -> Path:
    save_adapter(shaken(attach_adapter(tiny_model(), made_with, seed=1)), folder)
    return folder


def refusal(made_with: dict[str, Any], folder: Path) -> str:
    with pytest.raises(UserError) as error:
        check_start(tiny_model(), made_with, folder, same_task=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "made_with",
    [
        *(settings(name) for name in ("lora", "dora", "toplora", "tenslora", "genlora")),
        settings("peft", peft_type="VERA", settings={"target_modules": ["q_proj"], "r": 16}),
        settings("peft", peft_type="IA3"),
        settings("lora", modules_to_save=["lm_head"], use_rslora=True, bias="none"),
    ],
    ids=lambda value: str(value.get("peft_type") or value["name"]),
)
def test_every_adapter_can_start_from_a_saved_one(tmp_path: Path, made_with: dict):
    start = check_start(tiny_model(), made_with, saved(tmp_path, made_with), same_task=False)
    adapted = attach_adapter(tiny_model(), made_with, seed=2)
    take_start(adapted, start)
    file = load_file(tmp_path / WEIGHTS)
    now = adapter_state(adapted)
    assert now.keys() == file.keys() == {*start.tensors}
    assert all(torch.equal(now[name], tensor) for name, tensor in file.items())
    assert not start.left_out and not start.new_head


def test_the_adapter_keeps_its_dtype(tmp_path: Path):
    start = check_start(
        tiny_model(), settings("lora"), saved(tmp_path, settings("lora")), same_task=False
    )
    adapted = attach_adapter(tiny_model(), settings("lora", dtype="bfloat16"), seed=2)
    take_start(adapted, start)
    assert {tensor.dtype for tensor in adapter_state(adapted).values()} == {torch.bfloat16}


def test_a_plain_peft_lora_is_accepted_however_its_config_is_written(tmp_path: Path):
    config = peft.LoraConfig(
        r=4,
        rank_pattern={"q_proj": 8, "k_proj": 8, "v_proj": 8},
        lora_alpha=16 / 8**0.5,
        use_rslora=True,
        lora_dropout=0.3,
        init_lora_weights="gaussian",
        target_modules=r".*\.(q|k|v)_proj",
    )
    plain = shaken(peft.get_peft_model(tiny_model(), config))
    plain.save_pretrained(tmp_path, save_embedding_layers=False)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    written |= {"a_setting_of_another_tool": None, "and_one_that_is_off": False}
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    check_start(tiny_model(), settings("lora", r=8, alpha=16), tmp_path, same_task=False)
    (tmp_path / "adapter_config.json").write_text(json.dumps(written | {"new_trick": 3}))
    assert "new_trick=3 is not known to this PEFT" in refusal(settings("lora"), tmp_path)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("lora", settings("toplora"), "its method is LoRA, and this run trains TOPLORA"),
        ("lora", settings("dora"), "its method is LoRA, and this run trains DoRA"),
        ("lora", settings("lora", r=4, alpha=8), "its rank is r=8, but this run's is r=4"),
        (
            "lora",
            settings("lora", target_modules=["q_proj"]),
            r"target modules differ: it adapts model\.layers\.0\.self_attn\.k_proj, .*does not",
        ),
        (
            "lora",
            settings("lora", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]),
            r"it does not adapt model\.layers\.0\.self_attn\.o_proj, .* this run does",
        ),
        ("lora", settings("lora", alpha=8), r"q_proj is scaled by 2, this run's by 1; set"),
        ("lora", settings("lora", use_rslora=True), r"scaled by 2, this run's by 5\.65685"),
        (
            "lora",
            settings("lora", modules_to_save=["lm_head"]),
            rf"{re.escape(WEIGHTS)} lacks base_model\.model\.lm_head\.weight",
        ),
        (
            "toplora",
            settings("toplora", gate=adapter_defaults("toplora")[0]["gate"] | {"activation": "exp"})
            | {"gate": adapter_defaults("toplora")[0]["gate"] | {"activation": "softplus"}},
            r"with gate\.activation=exp, but this run has gate\.activation=softplus",
        ),
        ("tenslora", settings("tenslora", scaling=2.0), r"is scaled by 1, this run's by 2"),
        ("tenslora", settings("tenslora", head_layout="reference"), "head_layout=model"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, theirs: str, ours: dict, words: str):
    assert re.search(words, refusal(ours, saved(tmp_path, settings(theirs))))


def test_a_base_model_of_another_size_is_named_with_the_shape(tmp_path: Path):
    folder = saved(tmp_path, settings("lora"))
    file = folder / WEIGHTS
    tensors = load_file(file)
    first = min(name for name in tensors if "lora_A" in name)
    save_file(tensors | {first: torch.zeros(8, 32)}, file)
    assert f"{first} has shape (8, 32), but (8, 64) in this run" in refusal(
        settings("lora"), folder
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    assert "PEFT changed the base weights" in refusal(settings("lora"), folder)
    (folder / "adapter_model.bin").touch()
    file.unlink()
    assert "is pickled and not supported" in refusal(settings("lora"), folder)


@pytest.mark.parametrize(
    ("made_with", "key"),
    [
        (settings("lora", init="pissa"), "adapter.init=pissa"),
        (settings("dora", init="eva"), "adapter.init=eva"),
        (settings("tenslora", init="normal"), "adapter.init=normal"),
        (settings("toplora", gate={"init": "zeros"}), "adapter.gate.init=zeros"),
        (
            settings("peft", peft_type="LORA", settings={"init_lora_weights": "gaussian"}),
            "adapter.settings.init_lora_weights=gaussian",
        ),
    ],
)
def test_an_initialisation_setting_is_refused(made_with: dict, key: str):
    with pytest.raises(
        UserError, match=rf"^{re.escape(key)} and adapter\.start_from both initialise"
    ):
        validate_own_init(made_with)


def with_head(classes: int, seed: int) -> LlamaForSequenceClassification:
    config = tiny_config()
    config.num_labels = classes
    config.pad_token_id = 0
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_of_another_task_is_ignored_and_the_new_one_kept(tmp_path: Path, classes: int):
    save_adapter(shaken(attach_adapter(with_head(classes, 1), settings("lora"), seed=1)), tmp_path)
    start = check_start(with_head(2, 2), settings("lora"), tmp_path, same_task=False)
    assert start.left_out == ("base_model.model.score.weight",)
    assert start.new_head == ("score",)
    adapted = attach_adapter(with_head(2, 2), settings("lora"), seed=2)
    before = adapter_state(adapted)["base_model.model.score.weight"].clone()
    take_start(adapted, start)
    now, file = adapter_state(adapted), load_file(tmp_path / WEIGHTS)
    assert torch.equal(now["base_model.model.score.weight"], before)
    assert all(torch.equal(now[name], file[name]) for name in start.tensors)


def test_the_head_of_the_same_task_is_loaded(tmp_path: Path):
    save_adapter(shaken(attach_adapter(with_head(2, 1), settings("lora"), seed=1)), tmp_path)
    start = check_start(with_head(2, 2), settings("lora"), tmp_path, same_task=True)
    assert "base_model.model.score.weight" in start.tensors and not start.new_head


def test_a_head_is_ignored_by_a_language_model_and_new_if_the_file_has_none(tmp_path: Path):
    classifier, causal = tmp_path / "classifier", saved(tmp_path / "causal", settings("lora"))
    save_adapter(attach_adapter(with_head(2, 1), settings("lora"), seed=1), classifier)
    start = check_start(tiny_model(), settings("lora"), classifier, same_task=False)
    assert (start.left_out, start.new_head) == (("base_model.model.score.weight",), ())
    start = check_start(with_head(2, 2), settings("lora"), causal, same_task=False)
    assert (start.left_out, start.new_head) == ((), ("score",))


def test_a_file_that_changes_after_validation_is_refused(tmp_path: Path):
    folder = saved(tmp_path, settings("lora"))
    start = check_start(tiny_model(), settings("lora"), folder, same_task=False)
    save_adapter(attach_adapter(tiny_model(), settings("lora"), seed=5), folder)
    with pytest.raises(UserError, match="changed while this run was starting"):
        take_start(attach_adapter(tiny_model(), settings("lora"), seed=2), start)
