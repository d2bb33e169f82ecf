"""What was trained is kept where its folder cannot be written."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.test_step import lora_model
from toplora_train.config.errors import RunFailure
from toplora_train.models.tiny import tiny_tokenizer
from toplora_train.run.assemble.writing import save_adapter_folder


def test_an_adapter_that_cannot_be_written_is_kept_elsewhere_and_named(tmp_path: Path):
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    (tmp_path / "adapter").write_text("a file is in the way")
    model = lora_model()
    with pytest.raises(RunFailure, match="continue with resume=auto") as failure:
        save_adapter_folder(model, tiny_tokenizer(), tmp_path / "adapter")
    line = str(failure.value)
    assert f"could not be written to {tmp_path / 'adapter'} (" in line and "step-00000004" in line
    kept = Path(line.partition("it is kept in ")[2].partition(";")[0])
    assert len(load_file(kept / "adapter_model.safetensors")) == sum(
        parameter.requires_grad for parameter in model.parameters()
    )
    assert (kept / "tokenizer.json").is_file()
