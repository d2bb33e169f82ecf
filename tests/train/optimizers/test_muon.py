import pytest
import torch
from torch import nn

from tests.train.test_step import lora_model
from toplora_train.config.errors import UserError
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


def test_an_adapter_without_matrices_is_refused():
    model = nn.LayerNorm(3)
    with pytest.raises(UserError, match="optimizer=adamw"):
        muon(model)
