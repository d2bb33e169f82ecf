"""Uni-LoRA by its own name: PEFT's, against its equation."""

from pathlib import Path

import pytest
import torch

from tests.adapters.test_contract import subject
from tests.adapters.test_gralora import of_contract
from toplora_train.adapters.attach import fit_to_budget
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.errors import UserError
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import logits, shaken
from toplora_train.models.tiny import tiny_model

NOT_HELD = (
    "the model starts as the base model",  # its vector starts at random
    "a file that does not fit is refused with the tensor's name: missing",  # the rank is named
    "a batch may mix adapters",  # PEFT computes the mixed rows wrongly
    "adapter.dtype is the dtype",  # float32 only: PEFT multiplies half precision by it
)


@pytest.mark.parametrize("claim", of_contract(skipped=NOT_HELD))
def test_it_keeps_the_contract(claim: str):
    CHECKS[claim](subject("unilora"))


def test_every_entry_is_one_of_the_vectors_divided_by_the_root_of_its_count():
    model = shaken(subject("unilora").attached(theta_d_length=37))
    layers = [m for m in model.modules() if hasattr(m, "unilora_indices_A")]
    indices = [
        getattr(m, f"unilora_indices_{x}")["default"].flatten() for m in layers for x in "AB"
    ]
    counts = torch.bincount(torch.cat(indices).long(), minlength=37)
    assert counts.max() - counts.min() <= 1
    theta = model.base_model.unilora_theta_d["default"].double()
    scaled = theta / counts.double().sqrt()
    A, B = (scaled[getattr(layers[0], f"unilora_indices_{x}")["default"].long()] for x in "AB")
    found = layers[0].get_delta_weight("default").double()
    torch.testing.assert_close(found, B @ A, atol=1e-6, rtol=1e-4)
    assert describe_adapter(model)["trainable_parameters"] == 37


@pytest.mark.parametrize("save_indices", [True, False])
def test_it_reloads_with_and_without_its_indices(save_indices: bool, tmp_path: Path):
    model = shaken(subject("unilora").attached(save_indices=save_indices))
    save_adapter(model, tmp_path)
    assert torch.equal(logits(load_adapter(tiny_model(), tmp_path)), logits(model))


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.theta_d_length must be at least r = 8$"):
        subject("unilora").attached(theta_d_length=4)
    with pytest.raises(UserError, match="budget sets the rank, but this adapter's size does not"):
        fit_to_budget(tiny_model(), subject("unilora").settings(budget="lora_r8"))
