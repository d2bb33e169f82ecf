"""Orthogonal Projection LoRA: the protected directions, against a float64 decomposition."""

from pathlib import Path

import pytest
import torch
from peft import PeftConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from toplora_train.adapters.attach import attach_adapter
from toplora_train.adapters.export import save_as_lora
from toplora_train.adapters.orthogonal import OrthogonalConfig, OrthogonalLinear
from toplora_train.adapters.saving import load_adapter, save_adapter
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.contract.subject import logits, shaken
from toplora_train.models.tiny import tiny_model

PROTECTED = 4


def layer(dtype: torch.dtype = torch.float64) -> OrthogonalLinear:
    torch.manual_seed(3)
    base = nn.Linear(19, 13).requires_grad_(False)
    config = OrthogonalConfig(r=3, alpha=6, protect=PROTECTED)
    adapted = OrthogonalLinear(base, "default", config, "linear").to(dtype)
    nn.init.normal_(adapted.orthogonal_B["default"])
    return adapted


def settings(**changes) -> dict:
    return adapter_defaults("orthogonal")[0] | {"dropout": 0.0} | changes


def test_the_update_is_the_papers_with_projections_of_a_float64_decomposition():
    adapted, x = layer(), torch.randn(5, 19, dtype=torch.float64)
    weight = adapted.base_layer.weight
    U, _, Vh = torch.linalg.svd(weight)
    left = torch.eye(13, dtype=torch.float64) - U[:, :PROTECTED] @ U[:, :PROTECTED].T
    right = torch.eye(19, dtype=torch.float64) - Vh[:PROTECTED].T @ Vh[:PROTECTED]
    A, B = adapted.orthogonal_A["default"], adapted.orthogonal_B["default"]
    expected = adapted.base_layer(x) + 2 * x @ (left @ B @ A @ right).T
    torch.testing.assert_close(adapted(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_top_singular_triples_are_those_of_the_frozen_weight(dtype: torch.dtype):
    adapted = layer(dtype)
    weight, change = (
        adapted.base_layer.weight.double(),
        adapted.get_delta_weight("default").detach(),
    )
    U, S, Vh = torch.linalg.svd(weight)
    merged, scale = weight + change.double(), float(change.norm())
    assert scale > float(S[0])
    for left, value, right in zip(U.T[:PROTECTED], S, Vh, strict=False):
        assert float((merged @ right - value * left).norm()) < 1e-6 * scale
        assert float((merged.T @ left - value * right).norm()) < 1e-6 * scale
    unprotected = merged @ Vh[PROTECTED] - S[PROTECTED] * U[:, PROTECTED]
    assert float(unprotected.norm()) > 1e-2 * scale


def test_training_in_autocast_does_not_reach_the_protected_directions():
    adapted, x = layer(torch.float32), torch.randn(6, 19)
    optimizer = torch.optim.AdamW(adapted.parameters(), lr=0.1)
    for _ in range(5):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            adapted(x).square().sum().backward()
        optimizer.step()
    change = adapted.get_delta_weight("default").detach()
    U, _, Vh = torch.linalg.svd(adapted.base_layer.weight)
    assert float((U[:, :PROTECTED].T @ change).norm()) < 1e-5 * float(change.norm())
    assert float((change @ Vh[:PROTECTED].T).norm()) < 1e-5 * float(change.norm())


def test_exported_as_lora_its_factors_are_the_projected_ones(tmp_path: Path):
    model = shaken(attach_adapter(tiny_model(), settings(), seed=1))
    save_as_lora(model, tmp_path)
    torch.testing.assert_close(logits(load_adapter(tiny_model(), tmp_path)), logits(model))
    sizes = {file.shape for file in load_file(tmp_path / "adapter_model.safetensors").values()}
    assert sizes == {(8, 64), (64, 8), (32, 8)}


def test_loading_reads_the_directions_and_decomposes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = shaken(attach_adapter(tiny_model(), settings(), seed=1))
    save_adapter(model, tmp_path)
    expected = logits(model)

    def svd(*_: object, **__: object) -> None:
        raise AssertionError("a weight was decomposed")

    monkeypatch.setattr(torch.linalg, "svd", svd)
    for trainable in (False, True):
        loaded = load_adapter(tiny_model(), tmp_path, trainable=trainable)
        assert torch.equal(logits(loaded), expected)


def test_protecting_a_whole_weight_is_refused_with_the_module():
    with pytest.raises(UserError, match=r"^adapter\.protect must be below 32, the smaller side of"):
        attach_adapter(tiny_model(), settings(protect=32), seed=1)


def test_a_saved_config_may_start_a_new_adapter(tmp_path: Path):
    """It says that it is for inference, by which a config read with its values is recognised."""
    fresh = attach_adapter(tiny_model(), settings(protect=PROTECTED), seed=1)
    save_adapter(fresh, tmp_path)
    config = PeftConfig.from_pretrained(str(tmp_path))
    config.inference_mode = False
    again = get_peft_model(tiny_model(), config)
    assert torch.equal(logits(again), logits(tiny_model()))
    for name, tensor in again.state_dict().items():
        if "orthogonal_U" in name or "orthogonal_V" in name:
            assert torch.equal(tensor, fresh.state_dict()[name])
    loaded = load_adapter(tiny_model(), tmp_path)
    loaded.add_adapter("new", loaded.peft_config["default"])
    loaded.set_adapter("new")
    assert torch.equal(logits(loaded), logits(tiny_model()))
    later = PeftConfig.from_pretrained(str(tmp_path))
    both = get_peft_model(tiny_model(), later)  # not used before another one is added
    both.add_adapter("new", OrthogonalConfig(**settings_of(later)))
    assert torch.equal(logits(both), logits(tiny_model()))


def settings_of(config: PeftConfig) -> dict:
    return {"r": config.r, "protect": config.protect, "target_modules": config.target_modules}
