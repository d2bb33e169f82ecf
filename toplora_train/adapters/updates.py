"""The updates that an adapter makes to the weights: singular values, sizes, angles between two.

    D = W' - W0,    D = U S V^T

Shapes: W0 and D (m, n) in torch's orientation, U (m, r), S (r), V (n, r). Where D is a product of
two thin matrices it is never materialised: with QR factorisations of both, the singular values are
those of an r x r matrix. Otherwise (DoRA, and PEFT's methods without factors) D is what the layer
adds to the identity's rows. Everything is computed in double precision.

TopLoRA has a matrix for each token; D is then their mean, B diag(mean gate) A with its scaling.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from toplora_train.adapters._peft.lora import is_activated
from toplora_train.adapters.base import (
    AdapterLinear,
    UnsupportedByAdapterError,
    frozen_weight,
)
from toplora_train.adapters.factors import effective_rank
from toplora_train.adapters.targets import is_linear

MOST_VALUES = 64
"""Singular values that are kept of an update."""
NEGLIGIBLE = 1e-9
"""Singular values below this part of the largest one are rounding."""


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of an update, without what is only rounding.

    Attributes:
        U: ``(m, r)``, an orthonormal basis of the outputs that the update reaches.
        S: ``(r,)``, in descending order.
        V: ``(n, r)``, an orthonormal basis of the inputs that it reads.
    """

    U: Tensor
    S: Tensor
    V: Tensor


def adapted_layers(model: PeftModel) -> dict[str, nn.Module]:
    """The adapted linear layers by their names in the base model."""
    return {
        name: module
        for name, module in model.base_model.model.named_modules()
        if hasattr(module, "base_layer") and is_linear(module.get_base_layer())
    }


def place_of(name: str) -> tuple[int, str]:
    """A module's layer number, and its name without it: ``(3, "model.layers.*.self_attn.q_proj")``.

    A module outside of the numbered layers is in layer 0.
    """
    found = re.search(r"\.(\d+)\.", f".{name}.")
    if found is None:
        return 0, name
    return int(found[1]), re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name, count=1)


@torch.no_grad()
def thin_factors(
    layer: nn.Module, adapter_name: str, mean_gate: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """``A (r, n)`` and ``B (m, r)`` with ``D = B A``, scaling included; None if there are none.

    Args:
        layer: An adapted layer.
        adapter_name: The adapter.
        mean_gate: The mean of TopLoRA's gate over tokens, ``(r,)``; None: one.
    """
    if isinstance(layer, AdapterLinear):
        factors = layer.low_rank(adapter_name)
        if factors is not None:
            A = factors.A.double()
            A = A if mean_gate is None else mean_gate.to(A)[:, None] * A
            return A, factors.B.double() * factors.scaling
        try:
            A, B = layer.lora_factors(adapter_name)
        except UnsupportedByAdapterError:
            return None
        return A.double(), B.double()
    peft_layer: Any = layer
    if adapter_name in getattr(layer, "lora_A", {}) and (
        not peft_layer.lora_variant or is_activated(peft_layer, adapter_name)
    ):
        A, B = (getattr(layer, part)[adapter_name].weight.double() for part in ("lora_A", "lora_B"))
        return A, B * peft_layer.scaling[adapter_name]
    return None


@torch.no_grad()
def whole_update(layer: nn.Module) -> Tensor:
    """``D (m, n)`` of the active adapter, as what the layer adds to the rows of the identity."""
    own: Any = copy.deepcopy(layer).eval()
    weight = own.get_base_layer().weight
    if weight.is_floating_point():  # a quantised layer computes in its own format
        own = own.double()
    eye = torch.eye(frozen_weight(own).shape[1], device=weight.device)
    eye = eye.to(weight.dtype if weight.is_floating_point() else torch.float32)
    zero = torch.zeros_like(eye[:1])
    update: Tensor = (own(eye) - own(zero)) - (own.base_layer(eye) - own.base_layer(zero))
    return update.double().T


def decompose(update: Tensor | tuple[Tensor, Tensor], most: int | None = None) -> Decomposition:
    """The decomposition of an update, given as ``D`` or as its thin factors ``(A, B)``.

    ``most`` limits the number of directions.
    """
    if isinstance(update, Tensor):
        U, S, Vh = torch.linalg.svd(update.double(), full_matrices=False)
        V = Vh.mH
    else:
        A, B = update
        (left, inner), (right, outer) = torch.linalg.qr(B), torch.linalg.qr(A.mH)
        U, S, Vh = torch.linalg.svd(inner @ outer.mH, full_matrices=False)
        U, V = left @ U, right @ Vh.mH
    kept = min(int((S[:1] * NEGLIGIBLE < S).sum()), most or len(S))
    return Decomposition(U[:, :kept], S[:kept], V[:, :kept])


@torch.no_grad()
def decompositions(model: PeftModel) -> dict[str, Decomposition]:
    """The decompositions of the active adapter's updates, by module.

    An update without thin factors has many directions; DoRA's r largest are taken, and
    ``MOST_VALUES`` of another method's. TopLoRA's spaces do not depend on its gates.
    """
    name, found = str(model.active_adapter), {}
    for path, layer in adapted_layers(model).items():
        factors = thin_factors(layer, name)
        peft_r: Any = getattr(layer, "r", {})
        most = None if factors else peft_r.get(name, MOST_VALUES)
        found[path] = decompose(factors or whole_update(layer), most)
    return found


@torch.no_grad()
def describe_update(
    layer: nn.Module,
    adapter_name: str,
    mean_gate: Tensor | None = None,
    *,
    whole: bool = True,
) -> dict[str, Any]:
    """A layer's update in numbers.

    Args:
        layer: An adapted layer.
        adapter_name: The active adapter.
        mean_gate: See :func:`thin_factors`.
        whole: Whether to decompose matrices of the weight's size, which takes long.

    Returns:
        ``rank`` (of the thin factors, or None), ``norm`` (Frobenius), ``relative_norm`` (to that of
        the weight), ``effective_rank`` and ``singular_values`` (at most ``MOST_VALUES``; both None
        without ``whole``), and for DoRA ``magnitude`` and ``direction`` (:func:`dora_change`).
    """
    factors = thin_factors(layer, adapter_name, mean_gate)
    update = whole_update(layer) if factors is None else factors
    if isinstance(update, Tensor) and not whole:
        singular, norm = None, float(torch.linalg.vector_norm(update))
    else:
        singular = (
            torch.linalg.svdvals(update) if isinstance(update, Tensor) else decompose(update).S
        )
        norm = float(torch.linalg.vector_norm(singular))
    weight = torch.linalg.vector_norm(frozen_weight(layer), dtype=torch.float32)
    found: dict[str, Any] = {
        "rank": None if factors is None else len(factors[0]),
        "norm": norm,
        "relative_norm": norm / max(float(weight), torch.finfo(torch.float32).tiny),
        "effective_rank": None if singular is None else effective_rank(singular),
        "singular_values": None if singular is None else singular[:MOST_VALUES].tolist(),
    }
    if adapter_name in getattr(layer, "lora_magnitude_vector", {}):
        found |= dora_change(layer, adapter_name)
    return found


@torch.no_grad()
def dora_change(layer: nn.Module, adapter_name: str) -> dict[str, float]:
    """How far DoRA moved the weight's rows: in length, and in direction.

        magnitude = mean_i | |mag_i| - ||w_i|| | / ||w_i||,
        direction = mean_i (1 - cos(w_i, v_i))

    with the rows w of W0 and v of W'; as in DoRA's paper (section 3.2), which averages lengths
    without dividing by them.
    """
    peft_layer: Any = layer
    W = frozen_weight(peft_layer).double()
    A, B = (getattr(layer, part)[adapter_name].weight.double() for part in ("lora_A", "lora_B"))
    moved = W + peft_layer.scaling[adapter_name] * B @ A
    length = torch.linalg.vector_norm(W, dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    magnitude = peft_layer.lora_magnitude_vector[adapter_name].weight.double().flatten()
    cosine = torch.nn.functional.cosine_similarity(W, moved, dim=1) * magnitude.sign()
    return {
        "magnitude": float(((magnitude.abs() - length).abs() / length).mean()),
        "direction": float((1 - cosine).mean()),
    }


def principal_angles(one: Tensor, other: Tensor) -> Tensor:
    """The angles between two subspaces, in degrees, ascending; ``min(r1, r2)`` of them.

    Computed from cosines above 45 degrees and from sines below, as in Knyazev and Argentati,
    "Principal angles between subspaces in an A-based scalar product" (2002): a cosine near one
    cannot resolve a small angle.

    Args:
        one: An orthonormal basis ``(m, r1)``.
        other: An orthonormal basis ``(m, r2)``.
    """
    if one.shape[1] < other.shape[1]:
        one, other = other, one
    cosines = torch.linalg.svdvals(one.mH @ other).clamp(max=1)
    sines = torch.linalg.svdvals(other - one @ (one.mH @ other)).flip(0).clamp(max=1)
    angles = torch.where(cosines**2 < 0.5, cosines.acos(), sines.asin())
    return angles.rad2deg()


def compare_updates(
    one: Mapping[str, Decomposition], other: Mapping[str, Decomposition]
) -> list[dict[str, Any]]:
    """The principal angles between two adapters' updates, by module that both adapt.

    Returns:
        For each module ``outputs`` and ``inputs`` (the angles, see :func:`principal_angles`), and
        ``overlap``: the mean squared cosine of the outputs' angles, from 0 (orthogonal) to 1 (one
        subspace contains the other), with the ``chance`` value of random subspaces, r / m for the
        larger rank r.
    """
    found = []
    for name, first in one.items():
        second = other.get(name)
        if second is None or not (len(first.S) and len(second.S)):
            continue
        outputs = principal_angles(first.U, second.U)
        found.append(
            {
                "module": name,
                "outputs": outputs.tolist(),
                "inputs": principal_angles(first.V, second.V).tolist(),
                "overlap": float(outputs.deg2rad().cos().square().mean()),
                "chance": max(len(first.S), len(second.S)) / len(first.U),
            }
        )
    return found
