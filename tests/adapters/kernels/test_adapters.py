"""Every adapter that computes through the kernels, on a GPU or in the interpreter."""

import pytest
import torch

from tests.adapters.variants import MODELS
from toplora_train.adapters import projection
from toplora_train.adapters.attach import attach_adapter
from toplora_train.config.adapter import adapter_defaults

pytest.importorskip("triton")

NEVER = 1e-6  # a probability of dropout that the kernels compute with, and that drops nothing here


def results(name: str, kernel: str, dropout: float, device: torch.device) -> list[torch.Tensor]:
    """The logits of a training step and the gradients of all factors."""
    settings = adapter_defaults(name)[0] | {"dropout": dropout, "kernel": kernel}
    model = attach_adapter(MODELS["llama"](), settings, seed=0).to(device).train()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and not parameter.abs().sum():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator).to(device) / 10)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    torch.manual_seed(5)
    out = model(input_ids=torch.arange(12, device=device).view(2, 6)).logits
    return [out, *torch.autograd.grad(out.square().sum(), trained)]


@pytest.mark.parametrize("name", ["lora", "toplora", "tenslora", "genlora"])
def test_an_adapter_trains_through_the_kernels_as_composed(name, device, monkeypatch):
    if device.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    launched = []
    has_kernel = projection._has_kernel
    monkeypatch.setattr(
        projection, "_has_kernel", lambda x, K: launched.append(1) or has_kernel(x, K)
    )
    found = results(name, "fused", NEVER, device)
    assert launched
    for ours, composed in zip(found, results(name, "peft", 0.0, device), strict=True):
        error = (ours - composed).norm() / composed.norm()
        assert error < 1e-4
