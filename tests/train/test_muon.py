from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from tests.train.test_loop import start_training
from tests.train.test_step import lora_model
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.errors import UserError
from toplora_train.models.tiny import tiny_model
from toplora_train.train.checkpoint import (
    adapter_tensors,
    load_checkpoint,
    newest_checkpoint,
    read_state,
)
from toplora_train.train.optimizer import build_optimizer, set_learning_rate


def muon(model: nn.Module, **changes) -> torch.optim.Optimizer:
    settings = dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    return build_optimizer(model, name="muon", **(settings | changes))


def test_muon_updates_matrices_and_adamw_the_rest():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6))
    twins = [p.detach().clone().requires_grad_() for p in model.parameters()]
    together = muon(model)
    alone = [
        torch.optim.Muon([twins[0]], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(twins[1:], lr=1e-2, weight_decay=0.0),
    ]
    for step in range(3):
        set_learning_rate(together, 1e-2 / (step + 1))
        for part in alone:
            part.param_groups[0]["lr"] = 1e-2 / (step + 1)
        for parameter, twin in zip(model.parameters(), twins, strict=True):
            parameter.grad = torch.randn_like(parameter)
            twin.grad = parameter.grad.clone()
        together.step()
        for part in alone:
            part.step()
    for parameter, twin in zip(model.parameters(), twins, strict=True):
        assert torch.equal(parameter, twin)
    assert {"momentum_buffer"} == set(together.state[model[0].weight])
    assert "exp_avg" in together.state[model[1].weight]


def test_learning_rate_factors_apply():
    optimizer = muon(lora_model(), lr_multipliers={"lora_B": 4.0})
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 2.0}


@pytest.mark.parametrize("name", ["lora", "dora"])  # AdamW updates DoRA's magnitudes
def test_a_resumed_run_ends_byte_for_byte_like_an_uninterrupted_one(tmp_path: Path, name: str):
    def adapted() -> nn.Module:
        return attach_adapter(tiny_model(), {"name": name, "r": 4, "dropout": 0.0}, seed=1)

    whole = adapted()
    list(start_training(whole, muon(whole), tmp_path / "whole"))
    cut = adapted()
    list(start_training(cut, muon(cut), tmp_path / "cut", total_steps=4))
    found = newest_checkpoint(tmp_path / "cut")
    assert found is not None
    resumed = adapted()
    optimizer = Accelerator(cpu=True).prepare(muon(resumed))
    load_checkpoint(found, model=resumed, optimizer=optimizer, accelerator=Accelerator(cpu=True))
    list(start_training(resumed, optimizer, tmp_path / "cut", start=read_state(found)))
    for key, tensor in adapter_tensors(whole).items():
        assert torch.equal(tensor, adapter_tensors(resumed)[key]), key


def test_an_adapter_without_matrices_is_refused():
    model = nn.LayerNorm(3)
    with pytest.raises(UserError, match="optimizer=adamw"):
        muon(model)
