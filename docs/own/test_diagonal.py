"""The test of an adapter of one's own: the contract of every adapter, and its equation."""

from pathlib import Path

import pytest
import torch

from toplora_train.config.plugins import find_plugins, load_plugins
from toplora_train.contract.checks import CHECKS
from toplora_train.contract.subject import Subject, shaken

FOLDER = Path(__file__).parent
load_plugins(find_plugins({"adapter": {"name": "diagonal"}}, [FOLDER]), [FOLDER])
diagonal = Subject("diagonal", FOLDER / "adapter" / "diagonal.yaml")


@pytest.mark.parametrize("claim", CHECKS)
def test_it_keeps_the_contract(claim: str):
    CHECKS[claim](diagonal)


def test_it_scales_the_inputs():
    layer = shaken(diagonal.attached(scale=3.0)).base_model.model.model.layers[0].self_attn.q_proj
    x = torch.randn(2, 5, layer.in_features)
    expected = layer.base_layer(x * (1 + 3 * layer.diagonal_d["default"]))
    torch.testing.assert_close(layer(x), expected)
