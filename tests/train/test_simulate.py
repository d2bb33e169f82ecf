import pytest
import torch

from tests.adapters.test_contract import defaults
from toplora_train.adapters.attach import attach_adapter, without_weights
from toplora_train.models.activation import checkpoint_activations
from toplora_train.models.tiny import tiny_model
from toplora_train.train.simulate import Allocated, simulated_step_bytes
from toplora_train.train.step import supervised_loss

ADAPTERS = ("lora", "dora", "toplora", "tenslora", "genlora", "sbora", "orthogonal", "gralora")
CPU = torch.device("cpu")


def batch(rows: int = 4, tokens: int = 64):
    ids = torch.arange(rows * tokens).reshape(rows, tokens) % 250 + 2
    labels = ids.clone()
    labels[:, : tokens // 2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def adapted(model, settings, *, checkpointing: bool = False):
    made = attach_adapter(model, settings, seed=0).train()
    if checkpointing:
        checkpoint_activations(made.get_base_model())
    return made


def allocated(model, rows):
    """The same count of a step whose tensors have values."""
    counted = Allocated([*model.parameters(), *model.buffers(), *rows.values()], CPU)
    with counted:
        supervised_loss(model, rows, CPU).backward()
    return counted.most


def simulated(settings, rows, dtype=torch.float32, **how):
    model = adapted(without_weights(tiny_model()), settings, **how)
    return simulated_step_bytes(model, rows, supervised_loss, dtype)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_simulated_step_allocates_what_one_with_values_does(name):
    settings = defaults(name) | {"dropout": 0.0}
    real = allocated(adapted(tiny_model(), settings), batch())
    assert simulated(settings, batch()) == pytest.approx(real, rel=0.05)


def test_so_it_does_where_layers_are_recomputed_and_with_dropout_that_is_stored():
    for settings, how in (
        (defaults("lora"), {"checkpointing": True}),
        (defaults("dora") | {"norm": "peft"}, {}),
    ):
        real = allocated(adapted(tiny_model(), settings, **how), batch())
        assert simulated(settings, batch(), **how) == pytest.approx(real, rel=0.05)


def test_on_a_gpu_a_mask_of_dropout_takes_a_byte_per_entry():
    settings = defaults("dora") | {"norm": "peft", "dropout": 0.5}
    model = adapted(without_weights(tiny_model()), settings)
    cpu, gpu = (
        simulated_step_bytes(model, batch(), supervised_loss, torch.float32, on_gpu=on_gpu)
        for on_gpu in (False, True)
    )
    entries = 3 * 4 * 64 * 64  # of x in front of q, k and v of a layer
    assert cpu - gpu >= 3 * entries
