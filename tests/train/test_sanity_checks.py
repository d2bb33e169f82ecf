import math

import pytest
import torch
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import RunFailure
from toplora_train.models.tiny import tiny_model
from toplora_train.train.sanity_checks import (
    Beginning,
    DeadTensors,
    peak_memory,
    precision_remedy,
    validate_gradients,
    validate_gradients_exist,
    validate_loss,
)


def test_a_number_is_a_good_loss():
    validate_loss(0.0, 3, 0)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_no_number_names_the_step_and_the_last_checkpoint(loss: float):
    with pytest.raises(RunFailure, match=r"at step 9; the checkpoint of step 5 is"):
        validate_loss(loss, 9, 5)
    with pytest.raises(RunFailure, match="no checkpoint was due"):
        validate_loss(loss, 1, 0)


def test_a_tensor_without_a_gradient_is_named_and_frozen_ones_are_not():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model["used"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(RunFailure, match=r"2 adapter tensors .*unused\.weight"):
        validate_gradients_exist(model)
    model["unused"].requires_grad_(False)
    validate_gradients_exist(model)


def test_the_memory_of_this_process_is_megabytes():
    assert 1e7 < peak_memory(torch.device("cpu")) < 1e12


def test_a_gradient_that_is_no_number_names_its_tensor():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    validate_gradients(model, 1.0, 4)
    model[1].weight.grad[0, 0] = math.nan
    with pytest.raises(RunFailure, match=r"at step 4: 1 adapter tensors .*1\.weight"):
        validate_gradients(model, math.nan, 4)


def test_a_tensor_that_no_step_moves_is_named_and_one_that_is_slow_to_start_is_not():
    model = nn.ModuleDict({"late": nn.Linear(1, 1, bias=False), "dead": nn.Linear(1, 1)})
    dead = DeadTensors(model, patience=3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(9):
        dead.look(lr=0.0)  # a warm-up's steps say nothing
    dead.look(lr=1.0)
    model["late"].weight.grad += 1
    dead.look(lr=1.0)
    with pytest.raises(RunFailure, match=r"2 adapter tensors .*dead\.bias"):
        dead.look(lr=1.0)


@pytest.mark.parametrize("name", ["lora", "dora", "toplora", "tenslora", "genlora"])
def test_an_adapter_that_is_its_own_start_is_no_result(name: str):
    model = attach_adapter(tiny_model(), adapter_defaults(name)[0], seed=1)
    beginning = Beginning(model)
    with pytest.raises(RunFailure, match="still its own start after the last step"):
        beginning.validate_moved(model, dtype="float32")
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    beginning.validate_moved(model, dtype="float32")


def test_weight_decay_alone_is_no_learning():
    model = attach_adapter(tiny_model(), adapter_defaults("lora")[0], seed=1)
    beginning = Beginning(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.9)
    with pytest.raises(RunFailure, match="its gradients were zero"):
        beginning.validate_moved(model, dtype="float32")


def test_a_start_without_zeros_is_known_by_its_digest():
    settings = adapter_defaults("lora")[0] | {"init": "orthogonal", "dtype": "bfloat16"}
    model = attach_adapter(tiny_model(), settings, seed=1)
    beginning = Beginning(model)
    with pytest.raises(RunFailure, match=r"too small for adapter\.dtype=bfloat16"):
        beginning.validate_moved(model, dtype="bfloat16")
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1.0)
    beginning.validate_moved(model, dtype="bfloat16")


def test_a_loss_that_is_nan_names_the_key_of_the_number_format_that_overflows():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert precision_remedy(model, "no") == "Lower optimizer.lr"
    assert "trainer.mixed_precision=bf16" in precision_remedy(model, "fp16")
    model[0].requires_grad_(False).half()
    assert "model.dtype=bfloat16" in precision_remedy(model, "no")
    model[1].half()
    assert precision_remedy(model, "no").endswith("set adapter.dtype=float32")
