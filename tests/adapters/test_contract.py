"""The contract of every adapter; each YAML in conf/adapter is a test parameter."""

import copy
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peft
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from toplora_train.adapters.attach import NOT_THE_METHODS, adapter_names, attach_adapter
from toplora_train.adapters.base import adapter_prefixes
from toplora_train.adapters.describe import (
    describe_adapter,
    trainable_parameters_by_module,
)
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_config, tiny_model

CONF = Path(__file__).resolve().parents[2] / "conf" / "adapter"
OTHER_METHODS = "peft"  # PEFT's other methods, tested in tests/adapters/test_peft.py
ADAPTERS = sorted({path.stem for path in CONF.glob("*.yaml")} - {OTHER_METHODS})

# PEFT uses a name that transformers deprecates; attach_adapter silences the warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def defaults(name: str, **changes) -> dict:
    """The adapter's YAML as in a run, without dropout by default."""
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    if "dropout" in settings:
        settings["dropout"] = 0.0
    settings.pop("defaults", None)  # Hydra's
    return {**settings, **changes}


def shaken(model: PeftModel, seed: int = 0, size: float = 1 / 8) -> PeftModel:
    """Perturb all trainable tensors, so that no zero hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * size
                parameter.add_(noise.to(parameter.dtype))
    return model.eval()


def attached(name: str, seed: int = 1, **changes) -> PeftModel:
    return attach_adapter(tiny_model(), defaults(name, **changes), seed=seed)


def token_ids(rows: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(2, 250, (rows, length), generator=torch.Generator().manual_seed(5))


def tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    return peft.get_peft_model_state_dict(model, save_embedding_layers=False)


@torch.no_grad()
def logits(model: torch.nn.Module, **inputs) -> torch.Tensor:
    inputs = inputs or {"input_ids": token_ids()}
    return model.eval()(**inputs).logits


@contextmanager
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*address):
        raise AssertionError(f"network access to {address}")

    with monkeypatch.context() as patch:
        patch.setattr("socket.getaddrinfo", refuse)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield


def test_every_yaml_has_a_module_and_every_module_a_yaml():
    assert sorted(adapter_names()) == sorted([*ADAPTERS, OTHER_METHODS])


@pytest.mark.parametrize("name", ADAPTERS)
class TestEveryAdapter:
    def test_its_yaml_starts_with_a_description_and_names_itself(self, name: str):
        first, *rest = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ")
        assert rest[0] == f"name: {name}"
        assert all("#" in line for line in rest[1:]), "every key has its comment"

    def test_its_yaml_has_every_setting(self, name: str):
        settings = defaults(name)
        assert attach_adapter(tiny_model(), settings, seed=1)
        with pytest.raises(UserError, match=r"^adapter\.rnak is not a setting") as refusal:
            attach_adapter(tiny_model(), {**settings, "rnak": 4}, seed=1)
        offered = str(refusal.value).rpartition("it has ")[2].split(", ")
        assert sorted(offered) == sorted(set(settings) - {*NOT_THE_METHODS})

    def test_the_model_starts_as_the_base_model(self, name: str):
        torch.testing.assert_close(logits(attached(name)), logits(tiny_model()))

    def test_only_its_tensors_are_trained_and_all_of_them_get_a_gradient(self, name: str):
        model = shaken(attached(name)).train()
        model(input_ids=token_ids(), labels=token_ids()).loss.backward()
        prefixes = adapter_prefixes(model)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert trained
        for parameter_name, parameter in trained.items():
            assert any(part.startswith(prefixes) for part in parameter_name.split("."))
            assert parameter.grad.abs().sum() > 0, parameter_name

    def test_all_parameter_counts_agree(self, name: str):
        model = attached(name)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert describe_adapter(model)["trainable_parameters"] == trainable
        assert model.get_nb_trainable_parameters()[0] == trainable
        assert sum(trainable_parameters_by_module(model).values()) == trainable
        with torch.device("meta"):
            empty = LlamaForCausalLM(tiny_config())
        assert attach_adapter(empty, defaults(name), seed=1).get_nb_trainable_parameters() == (
            model.get_nb_trainable_parameters()
        )
        assert all(parameter.is_meta for parameter in empty.parameters())

    def test_the_initialisation_depends_on_the_seed_alone(self, name: str):
        torch.manual_seed(1)
        first = attached(name, seed=7)
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second, other = attached(name, seed=7), attached(name, seed=8)
        assert torch.equal(torch.get_rng_state(), before)
        starts = [tensors(model) for model in (first, second, other)]
        assert all(torch.equal(starts[0][key], starts[1][key]) for key in starts[0])
        assert any(not torch.equal(starts[0][key], starts[2][key]) for key in starts[0])

    def test_a_saved_adapter_loads_to_the_same_logits(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        model = shaken(attached(name))
        with no_network(monkeypatch):
            save_adapter(model, tmp_path)
        expected = logits(model)
        loaded = load_adapter(tiny_model(), tmp_path)
        assert torch.equal(logits(loaded), expected)
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert describe_adapter(loaded) == describe_adapter(model)
        by_peft = PeftModel.from_pretrained(tiny_model(), str(tmp_path))
        assert torch.equal(logits(by_peft), expected)
        by_peft = PeftModel.from_pretrained(tiny_model(), str(tmp_path), low_cpu_mem_usage=True)
        # Loaded tensors may be aligned differently, which affects rounding.
        torch.testing.assert_close(logits(by_peft), expected)
        read, written = tensors(by_peft), tensors(model)
        assert all(torch.equal(read[key], written[key]) for key in written)

    def test_a_loaded_adapter_can_be_trained_further(self, name: str, tmp_path: Path):
        model = shaken(attached(name))
        save_adapter(model, tmp_path)
        loaded = load_adapter(tiny_model(), tmp_path, trainable=True)
        assert loaded.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()
        assert trainable_parameters_by_module(loaded) == trainable_parameters_by_module(model)

    @pytest.mark.parametrize("damage", ["missing", "unexpected", "wrong shape"])
    def test_a_file_that_does_not_fit_is_refused_with_the_tensors_name(
        self, name: str, damage: str, tmp_path: Path
    ):
        save_adapter(shaken(attached(name)), tmp_path)
        file = tmp_path / "adapter_model.safetensors"
        whole = load_file(file)
        for key in whole:
            damaged = dict(whole)
            tensor = damaged.pop(key)
            if damage == "unexpected":
                damaged |= {key: tensor, f"{key}_2": tensor.clone()}
            elif damage == "wrong shape":
                damaged[key] = torch.cat([tensor, tensor])
            save_file(damaged, file)
            with pytest.raises(UserError, match=f"does not fit .* {damage}: {key}"):
                load_adapter(tiny_model(), tmp_path)
            if key.count("layers.1"):
                break  # layer 0 has every kind of tensor

    def test_disabled_it_is_the_base_model(self, name: str):
        model = shaken(attached(name))
        with model.disable_adapter():
            disabled = logits(model)
        assert torch.equal(disabled, logits(tiny_model()))
        assert not torch.allclose(logits(model), disabled)

    def test_two_adapters_are_switched_and_deleted(self, name: str):
        model = shaken(attached(name), seed=1)
        first = logits(model)
        model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
        assert torch.equal(logits(model), first)
        model.set_adapter("second")
        shaken(model, seed=2)
        second = logits(model)
        assert not torch.allclose(second, first)
        model.set_adapter("default")
        assert torch.equal(logits(model), first)
        model.set_adapter("second")
        model.delete_adapter("default")
        assert torch.equal(logits(model), second)
        assert not any("default" in key.split(".") for key in model.state_dict())
        assert not any("default" in module.split(".") for module, _ in model.named_modules())

    def test_a_batch_may_mix_adapters(self, name: str):
        model = shaken(attached(name), seed=1)
        model.add_adapter("second", copy.deepcopy(model.peft_config["default"]))
        model.set_adapter("second")
        shaken(model, seed=2)
        ids, mixed = token_ids(4), ["second", "__base__", "default", "second"]
        if name == "dora":  # PEFT does not support it
            with pytest.raises(ValueError, match="when DoRA is enabled"):
                logits(model, input_ids=ids, adapter_names=mixed)
            return
        together = logits(model, input_ids=ids, adapter_names=mixed)
        for row, adapter in enumerate(mixed):
            if adapter == "__base__":
                with model.disable_adapter():
                    alone = logits(model, input_ids=ids[row : row + 1])
            else:
                model.set_adapter(adapter)
                alone = logits(model, input_ids=ids[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone)
        with pytest.raises(ValueError, match="third"):
            logits(model, input_ids=ids, adapter_names=["third"] * 4)

    def test_modules_to_save_are_trained_saved_and_loaded(self, name: str, tmp_path: Path):
        model = attached(name, modules_to_save=["lm_head"])
        assert trainable_parameters_by_module(model)["lm_head"] == 258 * 64
        shaken(model)
        save_adapter(model, tmp_path)
        loaded = load_adapter(tiny_model(), tmp_path)
        assert torch.equal(logits(loaded), logits(model))
        saved = load_file(tmp_path / "adapter_model.safetensors")
        del saved["base_model.model.lm_head.weight"]
        save_file(saved, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match=r"base_model\.model\.lm_head\.weight is missing"):
            load_adapter(tiny_model(), tmp_path)

    def test_merging_gives_the_same_logits_or_is_refused(self, name: str):
        model = shaken(attached(name))
        expected = logits(model)
        mergeable = name != "toplora"
        assert describe_adapter(model)["mergeable"] is mergeable
        if not mergeable:
            for merge in (model.merge_and_unload, model.merge_adapter):
                with pytest.raises(UserError, match=r"cannot be merged: .* adapter=lora"):
                    merge()
            assert torch.equal(logits(model), expected)
            return
        model.merge_adapter()
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
        model.unmerge_adapter()
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-4)
        merged = model.merge_and_unload()
        assert type(merged) is LlamaForCausalLM
        torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)

    def test_unloading_restores_the_base_model(self, name: str):
        base = shaken(attached(name)).unload()
        assert type(base) is LlamaForCausalLM
        assert torch.equal(logits(base), logits(tiny_model()))

    @pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    @pytest.mark.parametrize("dtype", ["float32", "half", "auto"])
    def test_its_dtype_is_configurable_and_saved(
        self, name: str, dtype: str, half: torch.dtype, tmp_path: Path
    ):
        dtype = str(half).removeprefix("torch.") if dtype == "half" else dtype
        model = attach_adapter(tiny_model().to(half), defaults(name, dtype=dtype), seed=1)
        expected = torch.float32 if dtype == "float32" else half
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {expected}
        shaken(model)
        assert logits(model).dtype == half
        save_adapter(model, tmp_path)
        loaded = load_adapter(tiny_model().to(half), tmp_path)
        assert torch.equal(logits(loaded), logits(model))
        found = {tensor.dtype for tensor in tensors(loaded).values()}
        assert found == {expected}

    def test_activation_checkpointing_changes_no_gradient(self, name: str):
        gradients = []
        for checkpointing in (False, True):
            model = shaken(attached(name)).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model(input_ids=token_ids(), labels=token_ids()).loss.backward()
            gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        for key, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][key], gradient)

    def test_cached_generation_agrees_with_the_logits(self, name: str):
        model = shaken(attached(name))
        ids = token_ids(rows=2, length=5)
        mask = torch.ones_like(ids)
        generated = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None
        )
        expected = ids
        for _ in range(4):
            following = logits(model, input_ids=expected)[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, following], dim=1)
        assert torch.equal(generated, expected)

    def test_it_can_be_copied_and_pickled(self, name: str):
        model = shaken(attached(name))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert torch.equal(logits(other), logits(model))

    def test_peft_reports_its_status(self, name: str):
        status = shaken(attached(name)).get_model_status()
        assert status.peft_types == {"default": describe_adapter(attached(name))["peft_type"]}
        assert status.active_adapters == status.available_adapters == ["default"]
        assert status.enabled is True
        assert not status.merged_adapters

    @pytest.mark.parametrize("build", ["encoder", "transposed"])
    def test_it_fits_other_architectures(self, name: str, build: str, tmp_path: Path):
        make, adapted = ARCHITECTURES[build]
        changes = FOR_ONE_MATRIX.get(name, {}) if build == "transposed" else {}
        model = shaken(attach_adapter(make(), defaults(name, **changes), seed=1))
        targeted = {module.rpartition(".")[2] for module in model.base_model.targeted_module_names}
        assert adapted <= targeted | set(trainable_parameters_by_module(model))
        save_adapter(model, tmp_path)
        assert torch.equal(logits(load_adapter(make(), tmp_path)), logits(model))


def roberta_classifier() -> RobertaForSequenceClassification:
    torch.manual_seed(0)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=258,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    )


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=258, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    )


ARCHITECTURES: dict[str, tuple[Callable[[], torch.nn.Module], set[str]]] = {
    "encoder": (roberta_classifier, {"query", "key", "value", "classifier"}),
    "transposed": (gpt2, {"c_attn"}),
}

FOR_ONE_MATRIX = {"tenslora": {"construction": "depth"}}
"""Settings for a model with fused query, key and value."""
