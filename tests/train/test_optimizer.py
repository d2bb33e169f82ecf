import torch
from torch import nn

from toplora_train.train.optimizer import build_adamw, set_learning_rate


def adamw(model: nn.Module, weight_decay: float = 0.1) -> torch.optim.AdamW:
    return build_adamw(
        model, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay, device_type="cpu"
    )


def test_only_trainable_parameters_are_updated_and_only_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    groups = adamw(model).param_groups
    assert [[p.ndim for p in group["params"]] for group in groups] == [[2], [1, 1]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_a_model_without_vectors_has_one_group():
    assert len(adamw(nn.Linear(3, 3, bias=False)).param_groups) == 1


def test_the_learning_rate_reaches_every_group():
    optimizer = adamw(nn.Linear(3, 3))
    set_learning_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
