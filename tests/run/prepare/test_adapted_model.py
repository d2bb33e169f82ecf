from pathlib import Path

import pytest
import torch

from tests.run.conftest import tiny_run
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model, tiny_tokenizer
from toplora_train.run.prepare.adapted_model import load_adapted


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


def test_a_run_without_an_adapter_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="adapter"):
        load_adapted(tiny_run(tmp_path), tmp_path)
