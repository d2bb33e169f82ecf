import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.report.made_up import made_up_report
from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import file_digests, save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.models.identity import model_digest
from toplora_train.models.locate import ModelLocation
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.report.record import write_report
from toplora_train.run.prepare.adapted_model import (
    load_adapted,
    validate_base_intact,
    validate_own_adapter,
)


def test_the_model_is_the_base_with_the_saved_adapter(tmp_path: Path):
    config = tiny_run(tmp_path)
    trained = attach_adapter(tiny_model(), config.adapter, seed=1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    save_adapter(trained, tmp_path / "adapter")
    model, tokenizer = load_adapted(config, tmp_path)
    ids = torch.tensor([tokenizer("one two")["input_ids"]])
    assert torch.equal(model(ids).logits, trained.eval()(ids).logits)
    assert not torch.equal(model(ids).logits, tiny_model()(ids).logits)
    assert len(tokenizer) == len(tiny_tokenizer())
    assert not model.training


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_a_model_whose_biases_were_trained_is_not_taken_for_the_base_model(tmp_path, bias):
    settings = adapter_defaults("lora")[0] | {"bias": bias}
    save_adapter(attach_adapter(tiny_model(), settings, seed=1), tmp_path / "adapter")
    if bias == "none":
        validate_base_intact(tmp_path)
    else:
        with pytest.raises(UserError, match=r"\(bias=lora_only\).*use base=false"):
            validate_base_intact(tmp_path)


def test_a_run_without_an_adapter_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="adapter"):
        load_adapted(tiny_run(tmp_path), tmp_path)


@pytest.fixture
def base(tmp_path: Path) -> ModelLocation:
    folder = tmp_path / "base"
    tiny_model().save_pretrained(folder)
    return ModelLocation(str(folder), folder, "local folder")


@pytest.fixture
def run_dir(tmp_path: Path, base: ModelLocation) -> Path:
    saved(tmp_path / "run" / "adapter", "toplora", base)
    report = made_up_report()
    adapter = replace(report.adapter, files=file_digests(tmp_path / "run" / "adapter"))
    model = replace(report.model, sha256=model_digest(base))
    write_report(tmp_path / "run" / "report.json", replace(report, adapter=adapter, model=model))
    validate_own_adapter(tmp_path / "run", base)
    return tmp_path / "run"


def saved(folder: Path, method: str, base: ModelLocation) -> None:
    model = tiny_model()
    model.name_or_path = base.name
    save_adapter(attach_adapter(model, adapter_defaults(method)[0], seed=1), folder)


def test_an_adapter_of_another_method_is_refused(run_dir: Path, base: ModelLocation):
    saved(run_dir / "adapter", "lora", base)
    with pytest.raises(UserError, match="holds a LORA adapter, but the run trained TOPLORA"):
        validate_own_adapter(run_dir, base)


def test_an_adapter_of_another_base_model_is_refused(run_dir: Path, base: ModelLocation):
    file = run_dir / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "a/b"}))
    with pytest.raises(UserError, match="was trained on a/b"):
        validate_own_adapter(run_dir, base)


def test_a_base_model_that_was_replaced_is_refused(run_dir: Path, base: ModelLocation):
    file = Path(base.name) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.1}))
    with pytest.raises(UserError, match=r"not the model that .* was trained on"):
        validate_own_adapter(run_dir, base)


def test_weights_with_one_other_number_are_refused(run_dir: Path, base: ModelLocation):
    file = run_dir / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: not the file that the run"):
        validate_own_adapter(run_dir, base)


def test_another_scaling_in_the_config_is_refused(run_dir: Path, base: ModelLocation):
    file = run_dir / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"alpha": 1}))
    with pytest.raises(UserError, match=r"adapter_config\.json: not the file that the run saved"):
        validate_own_adapter(run_dir, base)


def test_a_run_of_an_older_version_recorded_no_digests(run_dir: Path, base: ModelLocation):
    write_report(run_dir / "report.json", made_up_report())
    tensors = {"x": torch.zeros(1)}
    save_file(tensors, run_dir / "adapter" / "adapter_model.safetensors")
    report = json.loads((run_dir / "report.json").read_text())
    report["model"]["sha256"] = ""
    (run_dir / "report.json").write_text(json.dumps(report))
    validate_own_adapter(run_dir, base)
