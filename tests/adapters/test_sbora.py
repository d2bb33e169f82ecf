"""SBoRA against its equation written out in float64, and its limits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.export import save_as_lora
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.adapters.sbora import SIDES, SboraConfig, SboraLinear
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.contract.subject import logits, shaken, tensors
from toplora_train.models.tiny import tiny_model


def layer(side: str, *, r: int = 3) -> SboraLinear:
    torch.manual_seed(3)
    base = nn.Linear(7, 5).requires_grad_(False)
    adapted = SboraLinear(base, "default", SboraConfig(r=r, alpha=6, side=side), "linear").double()
    for tensors_ in (adapted.sbora_A, adapted.sbora_B):
        for tensor in tensors_.values():
            nn.init.normal_(tensor)
    return adapted


def settings(**changes) -> dict:
    return adapter_defaults("sbora")[0] | {"dropout": 0.0} | changes


@pytest.mark.parametrize("side", SIDES)
def test_the_update_is_the_papers_index_by_index(side: str):
    adapted, x = layer(side), torch.randn(4, 2, 7, dtype=torch.float64)
    index, expected = adapted.sbora_index["default"].tolist(), adapted.base_layer(x)
    assert len(set(index)) == 3
    if side == "input":
        for column, place in enumerate(index):
            expected += 2 * x[..., place, None] * adapted.sbora_B["default"][:, column]
    else:
        for row, place in enumerate(index):
            expected[..., place] += 2 * (x * adapted.sbora_A["default"][row]).sum(-1)
    torch.testing.assert_close(adapted(x), expected)


@pytest.mark.parametrize("side", SIDES)
def test_only_r_columns_or_rows_of_the_weight_change(side: str):
    adapted = layer(side)
    change = adapted.get_delta_weight("default").abs().sum(0 if side == "input" else 1)
    assert change.nonzero().flatten().tolist() == adapted.sbora_index["default"].tolist()


@pytest.mark.parametrize("side", SIDES)
def test_the_file_alone_decides_which_inputs_or_outputs(side: str, tmp_path: Path):
    model = shaken(attach_adapter(tiny_model(), settings(side=side), seed=1))
    save_adapter(model, tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.rpartition(".")[2] for name in file} == {
        "sbora_index",
        "sbora_B" if side == "input" else "sbora_A",
    }
    torch.manual_seed(99)
    loaded = tensors(load_adapter(tiny_model(), tmp_path))
    assert all(torch.equal(loaded[name], file[name]) for name in file)
    other = tensors(attach_adapter(tiny_model(), settings(side=side), seed=2))
    assert any(not torch.equal(other[name], file[name]) for name in file if "index" in name)


@pytest.mark.parametrize("side", SIDES)
def test_exported_it_is_a_plain_lora_with_a_one_hot_factor(side: str, tmp_path: Path):
    model = shaken(attach_adapter(tiny_model(), settings(side=side), seed=1))
    save_as_lora(model, tmp_path)
    torch.testing.assert_close(logits(load_adapter(tiny_model(), tmp_path)), logits(model))
    one_hot = "lora_A" if side == "input" else "lora_B"
    for name, factor in load_file(tmp_path / "adapter_model.safetensors").items():
        if one_hot in name:
            assert (factor != 0).sum() == 8
            assert set(factor[factor != 0].tolist()) == {1.0 if side == "input" else 2.0}


def test_a_rank_above_the_dimension_is_refused_with_the_module():
    with pytest.raises(UserError, match=r"^adapter\.r must be at most 32, the number of outputs o"):
        attach_adapter(tiny_model(), settings(side="output", r=33), seed=1)
    with pytest.raises(UserError, match=r"^adapter\.side must be one of input, output, not 'in'$"):
        attach_adapter(tiny_model(), settings(side="in"), seed=1)


@pytest.mark.parametrize("index", [[0, 1, 64], [-1, 0, 1], [0, 0, 1]])
def test_a_file_whose_index_is_not_of_the_layer_is_refused_by_name(tmp_path: Path, index):
    save_adapter(attach_adapter(tiny_model(), settings(r=3), seed=0), tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    held = load_file(file)
    name = next(name for name in held if "layers.1" in name and name.endswith("sbora_index"))
    save_file({**held, name: torch.tensor(index)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"layers\.1\..*: sbora_index must be 3 diff.* below 64"):
        load_adapter(tiny_model(), tmp_path)
