import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from toplora_train.config.errors import UserError
from toplora_train.models.load import load_model, load_tokenizer
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_model, tiny_tokenizer

TINY = ModelLocation("toplora-train/tiny", None, "built in")


@pytest.fixture
def saved(tmp_path: Path) -> ModelLocation:
    tiny_model().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    return ModelLocation(str(tmp_path), tmp_path, "local folder")


def test_a_saved_model_has_the_logits_of_the_built_in_one(saved: ModelLocation):
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        here = load_model(TINY, dtype="float32")(ids).logits
        there = load_model(saved, dtype="float32")(ids).logits
    assert torch.equal(here, there)


def test_the_base_is_frozen_and_named(saved: ModelLocation):
    model = load_model(saved, dtype="bfloat16")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert next(model.parameters()).dtype == torch.bfloat16
    assert model.name_or_path == saved.name
    assert not model.training


def test_on_the_meta_device_only_the_config_is_read(saved: ModelLocation):
    assert saved.folder is not None
    (saved.folder / "model.safetensors").unlink()
    model = load_model(saved, dtype="float32", meta=True)
    expected = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_pad_token_equal_to_eos_is_replaced_by_a_spare_one(saved: ModelLocation):
    tokenizer = load_tokenizer(saved)
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_a_folder_without_weights_is_one_clear_error(saved: ModelLocation):
    assert saved.folder is not None
    (saved.folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        load_model(saved, dtype="float32")


def test_a_folder_without_a_tokenizer_is_one_clear_error(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(ModelLocation(str(tmp_path), tmp_path, "local folder"))


def test_a_damaged_tokenizer_is_one_clear_error(saved: ModelLocation):
    assert saved.folder is not None
    tiny_tokenizer().save_pretrained(saved.folder)
    (saved.folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE"}}')
    with pytest.raises(UserError, match="no tokenizer could be read from"):
        load_tokenizer(saved)


def test_the_built_in_model_is_what_auto_classes_load(saved: ModelLocation):
    assert type(AutoModelForCausalLM.from_pretrained(saved.folder)) is type(tiny_model())


CODE = """
import json
from dataclasses import replace
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path(__file__).parent.joinpath("ran").touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def coded(saved: ModelLocation, monkeypatch) -> ModelLocation:
    """A model folder whose config names Python code in the folder."""
    assert saved.folder is not None
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a prompt was shown"))
    modules = saved.folder.parent / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.syspath_prepend(modules)
    config = json.loads((saved.folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    (saved.folder / "config.json").write_text(json.dumps(config))
    (saved.folder / "own.py").write_text(CODE)
    return saved


def test_the_code_of_a_models_folder_is_refused_in_one_line(coded: ModelLocation):
    for load in (
        lambda: load_tokenizer(coded),
        lambda: load_model(coded, dtype="float32"),
        lambda: load_model(coded, dtype="float32", meta=True),
    ):
        with pytest.raises(UserError, match=r"set model\.trust_remote_code=true") as error:
            load()
        assert "\n" not in str(error.value)
    assert not list(coded.folder.parent.rglob("ran"))


def test_a_tokenizers_code_is_refused_too(saved: ModelLocation, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("a prompt was shown"))
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    assert saved.folder is not None
    (saved.folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"set model\.trust_remote_code=true"):
        load_tokenizer(saved)


def test_the_code_of_a_trusted_folder_runs(coded: ModelLocation):
    model = load_model(replace(coded, trusted=True), dtype="float32")
    assert type(model).__name__ == "OwnForCausalLM"
    assert list(coded.folder.parent.rglob("ran"))
