"""Training statistics of an adapter: norms, update sizes, effective ranks.

Computed from the adapter's tensors alone; no matrix of a base weight's size is materialised.
"""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor, nn

from toplora_train.adapters import factors
from toplora_train.models.sharded import full_tensor
from toplora_train.train.sharding import adapter_is_sharded
from toplora_train.train.spikes import LossTrend

TrainingStats = dict[str, float | str]


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable tensors, to measure a step's update against."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def training_stats(
    model: nn.Module, before: dict[str, Tensor], trend: LossTrend, device: torch.device
) -> TrainingStats:
    """The statistics of a logged step; with a sharded model, call it on every process.

    Args:
        model: the model after the step.
        before: its tensors before the step, from :func:`trainable_tensors`.
        trend: the loss trend, including this step.
        device: the training device.
    """
    return {
        "loss_spikes": trend.spikes,
        **_sizes(model, before),
        **_ranks(model),
        **_device_use(device),
    }


@torch.no_grad()
def _sizes(model: nn.Module, before: dict[str, Tensor]) -> TrainingStats:
    """The Frobenius norms of the adapter and, by module, of the step's update."""
    squares = torch.zeros((), dtype=torch.float64)
    moved: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name in before:
            new, old = full_tensor(parameter.detach()).double(), full_tensor(before[name]).double()
            squares = squares.to(new.device) + new.square().sum()
            module = module_of(name)
            change = (new - old).square().sum()
            moved[module] = moved[module] + change if module in moved else change
    norms = dict(zip(moved, torch.stack(list(moved.values())).sqrt().tolist(), strict=True))
    largest, smallest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    return {
        "adapter_norm": math.sqrt(float(squares)),
        "update_norm_largest": norms[largest],
        "update_norm_largest_layer": largest,
        "update_norm_smallest": norms[smallest],
        "update_norm_smallest_layer": smallest,
    }


def module_of(name: str) -> str:
    """The module an adapter tensor belongs to; for a shared tensor, its own name."""
    parts = name.removeprefix("module.").removeprefix("base_model.").split(".")
    if "default" in parts:
        parts = parts[: parts.index("default")]
    # The first part is PeftModel's ``model.``, the last one the tensor's own name.
    return ".".join(parts[1:-1]) or parts[-1]


@torch.no_grad()
def _ranks(model: nn.Module) -> TrainingStats:
    """The effective rank of the updates ``B A``, mean and smallest.

    Empty for adapters whose update is not a fixed product (TopLoRA's depends on the token).
    """
    found = {} if adapter_is_sharded(model) else factors.fixed_factors(model)
    if not found:
        return {}
    ranks = {name: effective_rank(A, B) for name, (A, B) in found.items()}
    smallest = min(ranks, key=ranks.__getitem__)
    return {
        "effective_rank": sum(ranks.values()) / len(ranks),
        "effective_rank_smallest": ranks[smallest],
        "effective_rank_smallest_layer": smallest,
    }


def effective_rank(A: Tensor, B: Tensor) -> float:
    """The effective rank of ``B A``, from ``(r, in)`` and ``(out, r)``; 0 if ``B A`` is zero.

    The singular values come from the r x r Gram matrices of A and B, in double precision.
    """
    inner = (A.double() @ A.double().T).cpu()
    outer = (B.double().T @ B.double()).cpu()
    values, vectors = torch.linalg.eigh(inner)
    root = vectors * values.clamp(min=0).sqrt()
    return factors.effective_rank(torch.linalg.eigvalsh(root.T @ outer @ root).clamp(min=0).sqrt())


def _device_use(device: torch.device) -> TrainingStats:
    """A GPU's reserved memory and utilisation (0 to 1); empty on other devices."""
    if device.type != "cuda":
        return {}
    used: TrainingStats = {"gpu_memory_bytes": torch.cuda.memory_reserved(device)}
    with suppress(Exception):  # needs an optional package; a statistic must not stop a run
        used["gpu_utilization"] = torch.cuda.utilization(device) / 100
    return used
