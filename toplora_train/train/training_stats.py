"""What an adapter does while it learns: how large it is, how it moves, how many ranks it uses.

All of it is of the adapter's size; nothing of a weight's size is made.
"""

from __future__ import annotations

import math
from contextlib import suppress

import torch
from torch import Tensor, nn

from toplora_train.adapters.factors import fixed_factors
from toplora_train.train.sharding import full_tensor, is_sharded
from toplora_train.train.spikes import LossTrend

TrainingStats = dict[str, float | str]


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trainable tensors, to tell later how far they have moved."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def training_stats(
    model: nn.Module, before: dict[str, Tensor], trend: LossTrend, device: torch.device
) -> TrainingStats:
    """What is to be told at a logged step; of a model that is shared out all processes must ask.

    Args:
        model: the model after the step.
        before: its tensors before the step, of :func:`trainable_tensors`.
        trend: that of the loss, the step's own included.
        device: where it is trained.
    """
    return {
        "loss_spikes": trend.spikes,
        **_sizes(model, before),
        **_ranks(model),
        **_device_use(device),
    }


@torch.no_grad()
def _sizes(model: nn.Module, before: dict[str, Tensor]) -> TrainingStats:
    """The Frobenius norms of the adapter and of a step's change, the latter by module."""
    squares = torch.zeros((), dtype=torch.float64)
    moved: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if name in before:
            now, then = full_tensor(parameter.detach()).double(), full_tensor(before[name]).double()
            squares = squares.to(now.device) + now.square().sum()
            module = module_of(name)
            change = (now - then).square().sum()
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
    """The module that an adapter's tensor belongs to; a tensor that all share is named itself."""
    parts = name.removeprefix("module.").removeprefix("base_model.").split(".")
    if "default" in parts:
        parts = parts[: parts.index("default")]
    # ``model.`` is the base model's own place in a PeftModel; the last part is the adapter's.
    return ".".join(parts[1:-1]) or parts[-1]


@torch.no_grad()
def _ranks(model: nn.Module) -> TrainingStats:
    """The effective rank of the updates ``B A`` (Roy and Vetterli, 2007), mean and smallest.

    It is the exponential of the entropy of the singular values, which are made to sum to one.
    Adapters whose update is no fixed product (TopLoRA's hangs on the token) have none.
    """
    factors = {} if is_sharded(model) else fixed_factors(model)
    if not factors:
        return {}
    ranks = {name: effective_rank(A, B) for name, (A, B) in factors.items()}
    smallest = min(ranks, key=ranks.__getitem__)
    return {
        "effective_rank": sum(ranks.values()) / len(ranks),
        "effective_rank_smallest": ranks[smallest],
        "effective_rank_smallest_layer": smallest,
    }


def effective_rank(A: Tensor, B: Tensor) -> float:
    """The effective rank of ``B A``, from ``(r, in)`` and ``(out, r)``; 0 where that is zero.

    The singular values are those of the r x r product of the triangles of two QR decompositions,
    taken through Gram matrices in double precision.
    """
    inner = (A.double() @ A.double().T).cpu()
    outer = (B.double().T @ B.double()).cpu()
    values, vectors = torch.linalg.eigh(inner)
    root = vectors * values.clamp(min=0).sqrt()
    singular = torch.linalg.eigvalsh(root.T @ outer @ root).clamp(min=0).sqrt()
    if not float(singular.sum()) > 0:
        return 0.0
    shares = singular / singular.sum()
    return float(torch.special.entr(shares).sum().exp())


def _device_use(device: torch.device) -> TrainingStats:
    """A GPU's memory in use and how busy it is; nothing elsewhere."""
    if device.type != "cuda":
        return {}
    used: TrainingStats = {"gpu_memory_bytes": torch.cuda.memory_reserved(device)}
    with suppress(Exception):  # by a package that may lack; no measure is worth a run
        used["gpu_utilization"] = torch.cuda.utilization(device) / 100
    return used
