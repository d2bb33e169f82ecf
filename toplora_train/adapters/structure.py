"""What is inside TensLoRA's tensors and GenLoRA's matrices, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from toplora_train.adapters.genlora import GenLoraLinear, Parts, synthesise
from toplora_train.adapters.tenslora import TensLoraLinear, tensor_names
from toplora_train.adapters.tenslora_constructions import modes
from toplora_train.adapters.updates import adapted_layers, place_of

POINTS = 41
"""Points of the latent line at which GenLoRA's functions are evaluated."""


def tensors_of(model: PeftModel, adapter_name: str = "default") -> dict[str, dict[str, Tensor]]:
    """TensLoRA's tensors by label, each as its ``core`` (Tucker) and factors by mode."""
    found: dict[str, dict[str, Tensor]] = {}
    for layer in model.modules():
        if isinstance(layer, TensLoraLinear) and adapter_name in layer.configs:
            slot = layer.tenslora_slots[adapter_name]
            names = tensor_names(slot, layer.configs[adapter_name])
            found[slot.tensor] = {
                part: getattr(layer, name)[adapter_name].detach().double().cpu()
                for part, name in names.items()
            }
    return found


def mode_names(model: PeftModel, adapter_name: str = "default") -> dict[tuple[str, str], list[str]]:
    """By tensor and small mode, what each of its indices stands for: ``q_proj``, or layer ``3``."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for path, layer in adapted_layers(model).items():
        if isinstance(layer, TensLoraLinear) and adapter_name in layer.configs:
            slot = layer.tenslora_slots[adapter_name]
            construction = layer.configs[adapter_name].construction
            small = [mode for mode in modes(construction) if mode in ("projection", "layer")]
            for mode, row in zip(small, slot.rows, strict=True):
                name = path.rpartition(".")[2] if mode == "projection" else str(place_of(path)[0])
                found.setdefault((slot.tensor, mode), {})[row] = name
    return {key: [names[row] for row in sorted(names)] for key, names in found.items()}


def mode_similarities(
    tensors: Mapping[str, Mapping[str, Tensor]],
    names: Mapping[tuple[str, str], list[str]],
) -> list[dict[str, Any]]:
    """How alike layers and projections are, as ``title``, ``names`` and a matrix ``values``.

    Where they share a tensor, they are rows of a mode's factor: the cosine of two rows, from -1 to
    1. Where each has its own tensor: the overlap of the input factors' column spaces, the mean
    squared cosine of their principal angles, from 0 to 1.

    Args:
        tensors: The tensors, from :func:`tensors_of`.
        names: The names of the modes' indices, from :func:`mode_names`.
    """
    found = []
    for label, parts in tensors.items():
        for mode in ("projection", "layer"):
            if mode in parts:
                rows = F.normalize(parts[mode], dim=1)
                title = f"cosine of the {mode}s' factors" + (f" in {label}" if label else "")
                values = (rows @ rows.T).tolist()
                found.append({"title": title, "names": names[label, mode], "values": values})
    if len(tensors) > 1:
        bases = [torch.linalg.qr(parts["input"])[0] for parts in tensors.values()]
        values = [
            [float((a.T @ b).square().sum()) / min(a.shape[1], b.shape[1]) for b in bases]
            for a in bases
        ]
        title = "overlap of the tensors' input factors"
        found.append({"title": title, "names": list(tensors), "values": values})
    return found


def core_energies(tensors: Mapping[str, Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """How a tensor's squared norm divides among the directions of each mode.

    Tucker: with the factors' QR factors multiplied into the core, the squared singular values of
    its unfolding along the mode (higher-order SVD), in descending order; they sum to 1, or are all
    zero. CP: the squared norms of the components likewise, which are not orthogonal.

    Returns:
        ``tensor`` (its label), ``mode`` (``component`` with CP) and ``energy``.
    """
    found = []
    for label, parts in tensors.items():
        factors = {mode: factor for mode, factor in parts.items() if mode != "core"}
        if "core" not in parts:
            norms = [torch.linalg.vector_norm(factor, dim=0) for factor in factors.values()]
            energies = {"component": torch.stack(norms).prod(0).square()}
        else:
            core = parts["core"]
            for place, factor in enumerate(factors.values()):
                triangle = torch.linalg.qr(factor)[1]
                core = torch.tensordot(triangle, core, dims=([1], [place])).movedim(0, place)
            energies = {
                mode: torch.linalg.svdvals(core.movedim(place, 0).flatten(1)).square()
                for place, mode in enumerate(factors)
            }
        for mode, energy in energies.items():
            shares = energy / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)
            in_order = shares.sort(descending=True).values.tolist()
            found.append({"tensor": label, "mode": mode, "energy": in_order})
    return found


@torch.no_grad()
def basis_functions(layer: GenLoraLinear, adapter_name: str) -> dict[str, Any]:
    """GenLoRA's functions of the latent coordinate, for the first group of coordinates.

    Returns:
        ``A`` and ``B``, each with ``latent`` (``POINTS`` points over the range of its latent vector
        and of the initial grid) and ``functions`` (a list of values for each of the r rows).
    """
    config, found = layer.configs[adapter_name], {}
    for matrix in "AB":
        parts = layer.parts(matrix, adapter_name)
        low = min(float(parts.latent.min()), config.grid[0])
        high = max(float(parts.latent.max()), config.grid[1])
        latent = torch.linspace(low, high, POINTS, device=parts.latent.device)
        first_group: Any = [None if one is None else one[:, :1] for one in parts[1:]]
        (functions,) = synthesise(Parts(latent, *first_group), base_term=config.base_term)
        found[matrix] = {"latent": latent.tolist(), "functions": functions.tolist()}
    return found


def described_functions(
    layers: Mapping[str, Any], adapter_name: str, *, most: int
) -> dict[str, dict[str, Any]]:
    """The functions of GenLoRA's layers by name, of at most ``most`` layers, evenly spread."""
    names = [name for name, layer in layers.items() if isinstance(layer, GenLoraLinear)]
    return {name: basis_functions(layers[name], adapter_name) for name in _spread(names, most)}


def _spread(names: Sequence[str], most: int) -> list[str]:
    if len(names) <= most:
        return list(names)
    return [names[place * (len(names) - 1) // (most - 1)] for place in range(most)]
