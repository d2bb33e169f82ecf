"""An adapter exported as a plain LoRA computes the same."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.export import save_as_lora
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.models.tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    )


def trained(name: str, base: torch.nn.Module | None = None, **settings) -> PeftModel:
    base = tiny_model() if base is None else base
    model = attach_adapter(base, {"name": name, **settings}, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.randint(2, 250, (2, 7), generator=torch.Generator().manual_seed(5))
    return model.eval()(ids).logits


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("genlora", {"r": 4, "alpha": 12, "dropout": 0.1}),
        ("genlora", {"r": 4, "rank_pattern": {"layers.1.self_attn.k_proj": 3}}),
        ("genlora", {"r": 4, "layers_to_transform": [1]}),
        ("genlora", {"r": 4, "modules_to_save": ["lm_head"]}),
        ("genlora", {"r": 4, "target_modules": "all-linear"}),
        ("tenslora", {}),
        ("tenslora", {"construction": "att", "scaling": 0.5}),
    ],
)
def test_the_plain_lora_has_the_same_logits(name: str, settings: dict, tmp_path: Path):
    model = trained(name, **settings)
    save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(tiny_model(), str(tmp_path))
    assert lora.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(logits(lora), logits(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(model), logits(tiny_model()), atol=1e-2)


def test_transposed_weights_are_converted_too(tmp_path: Path):
    model = trained("genlora", gpt2(), r=4)
    save_as_lora(model, tmp_path)
    lora = PeftModel.from_pretrained(gpt2(), str(tmp_path))
    torch.testing.assert_close(logits(lora), logits(model), atol=1e-5, rtol=1e-5)


def test_the_file_has_two_matrices_per_module_and_nothing_else(tmp_path: Path):
    save_as_lora(trained("genlora", r=4), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 3
    assert {name.rpartition("self_attn.")[2] for name in tensors} == {
        f"{letter}_proj.lora_{matrix}.weight" for letter in "qkv" for matrix in "AB"
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["k_proj", "q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 4, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == tiny_model().config.name_or_path


def test_exporting_does_not_change_the_adapter(tmp_path: Path):
    model = trained("genlora")
    before = logits(model)
    save_as_lora(model, tmp_path)
    assert torch.equal(logits(model), before)


def test_toplora_is_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(UserError, match="its gate depends on each token"):
        save_as_lora(trained("toplora"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["lora", "dora"])
def test_pefts_own_adapters_are_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"^a LORA adapter cannot be converted: LoRA and DoRA are "):
        save_as_lora(trained(name), tmp_path)


def test_a_write_error_names_the_folder(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFailure, match=rf"^{tmp_path}/file/inside: the adapter could not be"):
        save_as_lora(trained("genlora"), tmp_path / "file" / "inside")


@pytest.mark.parametrize(
    ("name", "settings"), [("sbora", {}), ("toplora", {"gate": {"enabled": False}})]
)
def test_an_adapter_in_half_precision_is_exported_without_rounding(name, settings, tmp_path: Path):
    model = trained(name, alpha=24, dtype="bfloat16", **settings)
    save_as_lora(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    plain = PeftModel.from_pretrained(tiny_model(), str(tmp_path))
    torch.testing.assert_close(logits(plain), logits(model.float()), atol=2e-6, rtol=2e-6)
