"""Training statistics of an adapter: norms, update sizes, effective ranks.

Computed from the adapter's tensors alone; no matrix of a base weight's size is materialised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as F
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
    named = {name: p for name, p in model.named_parameters() if name in before}
    new = [full_tensor(parameter.detach()) for parameter in named.values()]
    change = torch._foreach_sub(new, [full_tensor(before[name]) for name in named])
    sizes, moved = (
        torch.stack(torch._foreach_norm(one, dtype=torch.float64)).square() for one in (new, change)
    )
    squares, *of_tensors = torch.cat([sizes.sum()[None], moved]).tolist()  # waits once
    of_modules: dict[str, float] = {}
    for name, moved_by in zip(named, of_tensors, strict=True):
        module = module_of(name)
        of_modules[module] = of_modules.get(module, 0.0) + moved_by
    norms = {module: math.sqrt(square) for module, square in of_modules.items()}
    largest, smallest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    return {
        "adapter_norm": math.sqrt(squares),
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
    ranks = dict(zip(found, effective_ranks(list(found.values())), strict=True))
    smallest = min(ranks, key=ranks.__getitem__)
    return {
        "effective_rank": sum(ranks.values()) / len(ranks),
        "effective_rank_smallest": ranks[smallest],
        "effective_rank_smallest_layer": smallest,
    }


def effective_ranks(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """The effective ranks of products ``B A``, each of ``(r, in)`` and ``(out, r)``; 0 for zeros.

    The singular values come from the r x r Gram matrices of A and B, in double precision. They
    are copied from the device together, those of a lower rank with zeros, which add nothing.
    """
    widest = max(len(A) for A, _ in pairs)

    def gram(rows: Tensor) -> Tensor:
        rows = rows.double()
        return F.pad(rows @ rows.T, (0, widest - len(rows)) * 2)

    grams = torch.stack([gram(one) for A, B in pairs for one in (A, B.T)]).cpu()
    inner, outer = grams[::2], grams[1::2]
    values, vectors = torch.linalg.eigh(inner)
    root = vectors * values.clamp(min=0).sqrt()[:, None]
    squares = torch.linalg.eigvalsh(root.mT @ outer @ root).clamp(min=0)
    return [factors.effective_rank(singular) for singular in squares.sqrt()]


def _device_use(device: torch.device) -> TrainingStats:
    """A GPU's reserved memory and utilisation (0 to 1); empty on other devices."""
    if device.type != "cuda":
        return {}
    used: TrainingStats = {"gpu_memory_bytes": torch.cuda.memory_reserved(device)}
    with suppress(Exception):  # needs an optional package; a statistic must not stop a run
        used["gpu_utilization"] = torch.cuda.utilization(device) / 100
    return used
