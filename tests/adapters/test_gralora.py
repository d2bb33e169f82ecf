"""GraLoRA by its own name: PEFT's, against its equation."""

import pytest
import torch

from tests.adapters.test_contract import subject
from toplora_train.adapters.attach import fit_to_budget
from toplora_train.adapters.describe import describe_adapter
from toplora_train.config.errors import UserError
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import shaken
from toplora_train.models.tiny import tiny_model

NOT_HELD = ("a batch may mix adapters",)  # PEFT computes the mixed rows wrongly
YAML = ("its YAML starts", "its YAML has")


def of_contract(*, skipped: tuple[str, ...]) -> list:
    """The claims of the contract; those that are not about the YAML are slow."""
    return [
        pytest.param(claim, marks=() if claim.startswith(YAML) else pytest.mark.slow)
        for claim in CHECKS
        if not claim.startswith(skipped)
    ]


@pytest.mark.parametrize("claim", of_contract(skipped=NOT_HELD))
def test_it_keeps_the_contract(claim: str):
    CHECKS[claim](subject("gralora"))


def test_each_block_of_the_update_is_a_low_rank_product():
    model = shaken(subject("gralora").attached(gralora_k=2, r=4, alpha=8))
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    A, B = (getattr(layer, f"gralora_{part}")["default"].double() for part in "AB")
    dense = torch.zeros(64, 64, dtype=torch.float64)
    for i in range(2):
        for j in range(2):
            # part j of slice i's outputs is part i of block j's inputs, r / k numbers each
            inner = A[i][:, 2 * j : 2 * j + 2] @ B[j][2 * i : 2 * i + 2]
            dense[32 * j : 32 * j + 32, 32 * i : 32 * i + 32] = 2 * inner.T
    torch.testing.assert_close(layer.get_delta_weight("default").double(), dense)
    assert torch.linalg.matrix_rank(dense) == 8
    assert describe_adapter(model)["trainable_parameters"] == 2 * 4 * (128 + 96 + 96)


def test_a_budget_chooses_a_rank_that_k_divides():
    settings = subject("gralora").settings(budget="lora_r7", gralora_k=4)
    assert fit_to_budget(tiny_model(), settings).settings["r"] == 8


def test_a_rank_that_k_does_not_divide_is_refused():
    with pytest.raises(UserError, match=r"^adapter\.r should be divisible by gralora_k, but got 8"):
        subject("gralora").attached(gralora_k=3)
    with pytest.raises(UserError, match=r"^adapter\.gralora_k must be int, not '2'$"):
        subject("gralora").attached(gralora_k="2")
