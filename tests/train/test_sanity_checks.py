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


def test_a_finite_loss_passes():
    validate_loss(0.0, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_nan_or_infinite_loss_names_the_step_and_a_remedy_that_a_checkpoint_does_not_refuse(
    loss: float,
):
    with pytest.raises(RunFailure, match=r"at step 9\. Start again, in another output_dir, with"):
        validate_loss(loss, 9)


def test_trainable_tensors_without_a_gradient_are_named():
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    model["used"](torch.ones(1, 2)).sum().backward()
    with pytest.raises(RunFailure, match=r"2 adapter tensors .*unused\.weight"):
        validate_gradients_exist(model)
    model["unused"].requires_grad_(False)
    validate_gradients_exist(model)


def test_peak_memory_is_in_bytes():
    assert 1e7 < peak_memory(torch.device("cpu")) < 1e12


def test_a_nan_gradient_names_its_tensor():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    validate_gradients(model, 1.0, 4)
    model[1].weight.grad[0, 0] = math.nan
    with pytest.raises(RunFailure, match=r"at step 4: 1 adapter tensors .*1\.weight"):
        validate_gradients(model, math.nan, 4)
    with pytest.raises(RunFailure, match=r"at step 3\. Start .* trainer\.log_every=1"):
        validate_gradients(model, math.nan, 3, held=False)


def test_a_tensor_whose_gradient_stays_zero_is_named_but_not_one_that_starts_late():
    model = nn.ModuleDict({"late": nn.Linear(1, 1, bias=False), "dead": nn.Linear(1, 1)})
    dead = DeadTensors(model, patience=3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(9):
        dead.look(lr=0.0)  # warm-up steps at a rate of 0 do not count
    dead.look(lr=1.0)
    model["late"].weight.grad += 1
    dead.look(lr=1.0)
    dead.validate()  # not yet: two steps of three
    dead.look(lr=1.0)
    with pytest.raises(RunFailure, match=r"2 adapter tensors .*dead\.bias"):
        dead.validate()


@pytest.mark.parametrize("name", ["lora", "dora", "toplora", "tenslora", "genlora"])
def test_an_adapter_unchanged_since_initialisation_is_refused(name: str):
    model = attach_adapter(tiny_model(), adapter_defaults(name)[0], seed=1)
    beginning = Beginning(model)
    with pytest.raises(RunFailure, match="unchanged since its initialisation"):
        beginning.validate_moved(model, dtype="float32")
    ids = torch.tensor([[3, 4, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    beginning.validate_moved(model, dtype="float32")


def test_weight_decay_alone_does_not_count_as_learning():
    model = attach_adapter(tiny_model(), adapter_defaults("lora")[0], seed=1)
    beginning = Beginning(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.mul_(0.9)
    with pytest.raises(RunFailure, match="its gradients were zero"):
        beginning.validate_moved(model, dtype="float32")


def test_an_initialisation_without_zeros_is_compared_by_digest():
    settings = adapter_defaults("lora")[0] | {"init": "orthogonal", "dtype": "bfloat16"}
    model = attach_adapter(tiny_model(), settings, seed=1)
    beginning = Beginning(model)
    with pytest.raises(RunFailure, match=r"too small for adapter\.dtype=bfloat16"):
        beginning.validate_moved(model, dtype="bfloat16")
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1.0)
    beginning.validate_moved(model, dtype="bfloat16")


def test_a_nan_loss_names_the_setting_of_the_format_that_overflows():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert precision_remedy(model, "no").endswith("with a lower optimizer.lr")
    assert "trainer.mixed_precision=bf16" in precision_remedy(model, "fp16")
    model[0].requires_grad_(False).half()
    assert "model.dtype=bfloat16" in precision_remedy(model, "no")
