from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.train.test_step import examples
from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.saving import save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.data.batches import collate
from toplora_train.models.tiny import tiny_model
from toplora_train.run.assemble.reload import probe_logits, prove_reload


@pytest.fixture
def trained(tmp_path: Path):
    model = attach_adapter(tiny_model(), adapter_defaults("toplora")[0], seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_adapter(model, tmp_path)
    batch = collate(examples(3), 0)
    return tmp_path, batch, probe_logits(model, batch, None)


def test_a_saved_adapter_gives_the_very_logits(trained):
    folder, batch, expected = trained
    proof = prove_reload(
        tiny_model(), folder, expected=expected, batch=batch, dtype=None, kernel="fused"
    )
    assert proof.max_abs_logit_difference == 0
    assert not torch.equal(expected, probe_logits(tiny_model(), batch, None))


def test_a_changed_file_shows_as_a_difference(trained):
    folder, batch, expected = trained
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({k: v * 1.5 for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    proof = prove_reload(
        tiny_model(), folder, expected=expected, batch=batch, dtype=None, kernel="fused"
    )
    assert proof.max_abs_logit_difference > 1e-3
    assert not proof.same


def test_a_file_with_nan_does_not_compute_what_was_trained(trained):
    folder, batch, expected = trained
    proof = prove_reload(
        tiny_model(), folder, expected=expected, batch=batch, dtype=None, kernel="fused"
    )
    assert proof.same
    reloaded = prove_reload(
        tiny_model().apply(_to_nan),
        folder,
        expected=expected,
        batch=batch,
        dtype=None,
        kernel="fused",
    )
    assert not reloaded.same


def _to_nan(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Embedding):
        torch.nn.init.constant_(module.weight, torch.nan)


def test_a_file_without_its_gate_is_refused_by_name(trained):
    folder, batch, expected = trained
    tensors = load_file(folder / "adapter_model.safetensors")
    gate = [name for name in tensors if "gate" in name or "theta" in name.lower()]
    assert gate
    save_file(
        {k: v for k, v in tensors.items() if k not in gate}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(UserError, match=r"missing|lacks"):
        prove_reload(
            tiny_model(), folder, expected=expected, batch=batch, dtype=None, kernel="fused"
        )
