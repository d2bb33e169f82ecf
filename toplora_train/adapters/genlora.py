"""GenLoRA: LoRA whose two matrices are synthesised from latent vectors by radial basis functions.

Paper: arXiv 2602.05709. Known from its abstract: each low-rank matrix has a latent vector, from
which lightweight radial basis functions synthesise the rows of A and the columns of B. The full
text was not available: **the formulation below is this project's own interpretation**, and results
obtained with it are not the paper's.

    phi_A[i, j, k] = exp( -((z_A[j] - c_A[i, g(j), k]) / h_A[i, g(j), k])^2 )
    A[i, j]        = sum_k w_A[i, g(j), k] phi_A[i, j, k]  +  b_A[i, g(j)] base(z_A[j])
    B[j, i]        likewise from z_B
    y              = W0 x + s B A drop(x)

Shapes: W0 (m, n) frozen; latent vectors z_A (n), z_B (m); weights w, centres c and log-widths
rho = log h (r, G, K) per matrix; b (r, G), where ``base_term`` is not ``none``. g(j) is the group
of coordinate j: G contiguous groups of equal size, the last of which may be shorter. s = alpha / r,
or alpha / sqrt(r). Parameters per module: n + m + 6 r G K; n + m + 2 r G K where the grid is fixed
(``learned_grid: false``: c and h keep their initial values, the same for all rows and groups).

Start: z ~ N(0, 1); c = K points evenly over ``grid``; h = their spacing; w_A, b_A ~ N(0, sigma^2)
with sigma such that A has the entry variance 1 / (3 n) of LoRA's A; w_B = b_B = 0, so that the
update is exactly zero.

A and B are synthesised in float32 and then cast. The K values per entry are recomputed in the
backward pass, so that a step stores little besides A and B. The update is a fixed matrix of
rank <= r: it merges, and is exactly a plain LoRA (``lora_factors``). More groups, not a larger r,
increase the effective rank.

Cost: LoRA's, plus the synthesis of A and B at every step, r K (n + m) exponentials independent of
the number of tokens. Merges: as LoRA does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from toplora_train.adapters.autocast import without_autocast
from toplora_train.adapters.base import AdapterLinear, AdapterModel, register_method
from toplora_train.adapters.checks import (
    check_boolean,
    check_choice,
    check_keys,
    check_positive_integer,
)
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.low_rank import LowRank

BASE_TERMS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "none": None,
    "linear": lambda latent: latent,
    "silu": F.silu,
}
VALUES_AT_A_TIME = 2**23
"""Basis function values computed at a time: 32 MiB of float32 per intermediate result."""


@dataclass
class GenLoraConfig(LowRankConfig):
    """PEFT config of GenLoRA: LoRA's settings and those of the synthesis.

    Args:
        num_kernels: K, the number of radial basis functions per row and group; at least 2.
        num_groups: G, the number of coordinate groups with functions of their own.
        learned_grid: Whether the functions' centres and widths are trained.
        grid: The first and last centre.
        base_term: A term added to the functions: ``none``, ``linear`` (b z) or ``silu``.
    """

    method: ClassVar[str] = "genlora"

    num_kernels: int = 8
    num_groups: int = 16
    learned_grid: bool = True
    grid: list[float] = field(default_factory=lambda: [-2.0, 2.0])
    base_term: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integer("num_kernels", self.num_kernels)
        if self.num_kernels < 2:
            raise ValueError("num_kernels must be at least 2: the grid has two ends")
        check_positive_integer("num_groups", self.num_groups)
        check_boolean("learned_grid", self.learned_grid)
        _check_grid(self.grid)
        check_choice("base_term", self.base_term, tuple(BASE_TERMS))


# --------------------------------------------------------------------------------------------------
# Synthesis: latent vector -> matrix
# --------------------------------------------------------------------------------------------------


def radial_basis(latent: Tensor, centres: Tensor, log_widths: Tensor) -> Tensor:
    """``exp(-((z - c) / h)^2)``, in (0, 1].

    Args:
        latent: ``(G, S)``, the latent vector by groups of S coordinates.
        centres: ``(r, G, K)``, or ``(1, 1, K)`` where all rows and groups share them.
        log_widths: log h, of the same shape.

    Returns:
        ``(r, G, K, S)`` or ``(1, G, K, S)``: operations over neighbouring coordinates are fast.
    """
    return _basis(_distance(latent, centres, torch.exp(-log_widths)))


def _distance(latent: Tensor, centres: Tensor, inverse_widths: Tensor) -> Tensor:
    return (latent.unsqueeze(1) - centres.unsqueeze(-1)).mul_(inverse_widths.unsqueeze(-1))


def _basis(distance: Tensor) -> Tensor:
    return (distance * distance).neg_().exp_()


class _WeightedSum(torch.autograd.Function):
    """``sum_k w phi``, ``(r, G, S)``; the values phi are computed again for the gradients.

    With t = (z - c) / h and q = 2 w^T d(sum) * phi * t:
    dw = d(sum) phi^T,   dc = sum_s(q) / h,   d(log h) = sum_s(q t),   dz = -sum_rk(q / h)
    """

    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, weights: Tensor, centres: Tensor, log_widths: Tensor
    ) -> Tensor:
        ctx.save_for_backward(latent, weights, centres, log_widths)
        values = radial_basis(latent, centres, log_widths)
        if len(values) == len(weights):  # with few columns, products would take twice as long
            return values.mul_(weights.unsqueeze(-1)).sum(dim=2)
        return torch.bmm(weights.transpose(0, 1), values[0]).transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        latent, weights, centres, log_widths = ctx.saved_tensors
        with without_autocast(latent):
            inverse = torch.exp(-log_widths)
            distance = _distance(latent, centres, inverse)
            q = _basis(distance)
            w, d = _batched(weights * 2, q), _batched(dtotal, q)
            dw = _unbatched(torch.bmm(d, q.flatten(0, 1).mT), weights, q)
            # An outer product is faster as a multiplication.
            q.mul_((w.mT * d if w.shape[1] == 1 else torch.bmm(w.mT, d)).view_as(q)).mul_(distance)
            dz = (q * inverse.unsqueeze(-1)).sum(dim=0).sum(dim=1).neg_()
            dc = drho = None
            if any(ctx.needs_input_grad[2:]):
                dc = q.sum(dim=-1).mul_(inverse).sum_to_size(centres.shape)
                drho = q.mul_(distance).sum(dim=-1).sum_to_size(centres.shape)
        return dz, dw, dc, drho


def _batched(rows: Tensor, values: Tensor) -> Tensor:
    """``(r, G, .)`` as ``(r G, 1, .)``, or ``(G, r, .)`` where all rows have the same values."""
    if len(rows) == len(values):
        return rows.reshape(-1, 1, rows.shape[2])
    return rows.transpose(0, 1)


def _unbatched(batched: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The inverse of :func:`_batched`, ``(r, G, .)``."""
    if len(rows) == len(values):
        return batched.view(*rows.shape[:2], -1)
    return batched.transpose(0, 1)


class Parts(NamedTuple):
    """What a matrix ``(r, n)`` is synthesised from.

    Shapes: latent ``(n,)``; weights ``(r, G, K)``; centres and log_widths ``(r, G, K)``, or
    ``(1, 1, K)`` where all rows and groups share them; base_weights ``(r, G)``, None without base
    term.
    """

    latent: Tensor
    weights: Tensor
    centres: Tensor
    log_widths: Tensor
    base_weights: Tensor | None = None


def synthesise(*matrices: Parts, base_term: str = "none") -> list[Tensor]:
    """The matrices of the module's equation, in float32 or wider.

    For the backward pass the arguments are kept, joined; a few rows at a time are recomputed. The
    groups of all matrices are computed together, padded to one size, because calling the operations
    takes most of the time.

    Args:
        matrices: Each from its latent vector, with the same number of rows and of functions, and
            with functions of their own or all with the same ones.
        base_term: A key of :data:`BASE_TERMS`.

    Returns:
        ``(r, n)`` each.
    """
    dtype = torch.promote_types(matrices[0].latent.dtype, torch.float32)
    latents, weights, centres, log_widths = (
        [tensor.to(dtype) for tensor in column] for column in list(zip(*matrices, strict=True))[:4]
    )
    rank, groups = len(weights[0]), [one.shape[1] for one in weights]
    shared = len(centres[0]) == 1
    with without_autocast(latents[0]):
        latent = _in_groups(latents, groups)
        functions = (
            torch.cat(weights, dim=1),
            *(one[0] if shared else torch.cat(one, dim=1) for one in (centres, log_widths)),
        )
        values_of_row = latent.numel() * weights[0].shape[2]
        rows = rank if shared else max(1, VALUES_AT_A_TIME // values_of_row)
        split = zip(*(torch.split(one, rows) for one in functions), strict=True)
        totals = [_weighted_sum(latent, *part) for part in split]
        total = totals[0] if len(totals) == 1 else torch.cat(totals)
        base = BASE_TERMS[base_term]
        base_weights = [one.base_weights for one in matrices if one.base_weights is not None]
        if base is not None and base_weights:
            total = total + torch.cat(base_weights, dim=1).to(dtype)[..., None] * base(latent)
        of_matrices = zip(torch.split(total, groups, dim=1), latents, strict=True)
        return [_coordinates(one, len(latent)) for one, latent in of_matrices]


def _weighted_sum(*tensors: Tensor) -> Tensor:
    total: Tensor = _WeightedSum.apply(*tensors)  # type: ignore[no-untyped-call]  # untyped in its package
    return total


def _in_groups(latents: Sequence[Tensor], groups: Sequence[int]) -> Tensor:
    """Vectors ``(n,)``, each in its number of groups, as ``(sum G, S)``, padded with zeros."""
    sizes = [math.ceil(len(one) / number) for one, number in zip(latents, groups, strict=True)]
    rows = [
        _padded(_padded(one, number * size).view(number, size), max(sizes))
        for one, number, size in zip(latents, groups, sizes, strict=True)
    ]
    return torch.cat(rows)


def _coordinates(rows: Tensor, width: int) -> Tensor:
    """``(r, G, S)`` without the padding of :func:`_in_groups`, ``(r, n)``."""
    size = math.ceil(width / rows.shape[1])
    if rows.shape[2] > size:
        rows = rows[..., :size]
    flat = rows.reshape(len(rows), -1)
    return (flat if flat.shape[1] == width else flat[:, :width]).contiguous()


def _padded(rows: Tensor, width: int) -> Tensor:
    """The last dimension padded with zeros; as it is if nothing is missing, without a copy."""
    missing = width - rows.shape[-1]
    return F.pad(rows, (0, missing)) if missing else rows


def initial_grid(
    kernels: int, low: float, high: float, *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """K evenly spaced centres from ``low`` to ``high``, and the log of their spacing, K times.

    The device is explicit because transformers replaces ``torch.linspace`` while it loads a model;
    if torch collects its factory functions at that moment, ``with torch.device(...)`` no longer
    affects the original one.
    """
    spacing = (high - low) / (kernels - 1)
    centres = torch.linspace(low, high, kernels, device=device)
    return centres, torch.full((kernels,), math.log(spacing), device=device)


# --------------------------------------------------------------------------------------------------
# The method
# --------------------------------------------------------------------------------------------------


class GenLoraLinear(AdapterLinear):
    """A frozen linear layer with the update ``s B A drop(x)``, A and B synthesised."""

    prefix: ClassVar[str] = "genlora_"
    adapter_layer_names = tuple(
        f"genlora_{part}_{matrix}" for matrix in "AB" for part in ("z", "w", "c", "rho", "b")
    )

    def initial_tensors(self, config: GenLoraConfig, module_name: str) -> Mapping[str, Tensor]:
        """See "Start" in the module's docstring: B is zero, A has the variance of LoRA's A."""
        r = config.rank_for(module_name)
        _check_groups(config.num_groups, self.in_features, f"inputs of {module_name}")
        _check_groups(config.num_groups, self.out_features, f"outputs of {module_name}")
        tensors = {}
        for matrix, width in (("A", self.in_features), ("B", self.out_features)):
            latent = torch.randn(width)
            centres, log_widths = initial_grid(
                config.num_kernels, *config.grid, device=latent.device
            )
            weights = torch.zeros(r, config.num_groups, config.num_kernels)
            base_weights = torch.zeros(r, config.num_groups)
            if matrix == "A":
                sigma = _weight_deviation(latent, centres, log_widths, config.base_term)
                weights.normal_().mul_(sigma)
                base_weights.normal_().mul_(sigma)
            parts = {"z": latent, "w": weights}
            if config.learned_grid:
                parts["c"] = centres.expand_as(weights).clone()
                parts["rho"] = log_widths.expand_as(weights).clone()
            if config.base_term != "none":
                parts["b"] = base_weights
            tensors.update({f"genlora_{part}_{matrix}": part_of for part, part_of in parts.items()})
        return tensors

    def low_rank(self, adapter_name: str) -> LowRank:
        """A and B, synthesised in float32, and s."""
        parts = [self.parts(matrix, adapter_name) for matrix in "AB"]
        A, B = synthesise(*parts, base_term=self.configs[adapter_name].base_term)
        return LowRank(A, B.T, self.scaling[adapter_name])

    def parts(self, matrix: str, adapter_name: str) -> Parts:
        """What A ``(r, n)``, or the transpose of B ``(r, m)``, is synthesised from."""
        config = self.configs[adapter_name]
        latent, weights, centres, log_widths, base_weights = (
            getattr(self, f"genlora_{part}_{matrix}").get(adapter_name)
            for part in ("z", "w", "c", "rho", "b")
        )
        if not config.learned_grid:
            centres, log_widths = (
                values.to(latent.device)[None, None]
                for values in initial_grid(config.num_kernels, *config.grid)
            )
        return Parts(latent, weights, centres, log_widths, base_weights)


def _check_grid(grid: object) -> None:
    numbers = grid if isinstance(grid, list | tuple) else []
    if len(numbers) != 2 or not all(
        isinstance(number, int | float) and not isinstance(number, bool) for number in numbers
    ):
        raise TypeError(f"grid must be a list of two numbers, not {grid!r}")
    if not -math.inf < numbers[0] < numbers[1] < math.inf:
        raise ValueError(f"grid must be two numbers, the second one greater, not {grid!r}")


def _weight_deviation(
    latent: Tensor, centres: Tensor, log_widths: Tensor, base_term: str
) -> Tensor:
    """The standard deviation of the weights that gives entries LoRA's variance 1 / (3 n)."""
    squares = radial_basis(latent[None], centres[None, None], log_widths[None, None]) ** 2
    power = squares.sum(dim=-2).mean()
    base = BASE_TERMS[base_term]
    if base is not None:
        power = power + (base(latent) ** 2).mean()
    return (3 * len(latent) * power).rsqrt()


def _check_groups(groups: int, width: int, what: str) -> None:
    """Refuse a number of groups that would leave the last ones empty."""
    size = math.ceil(width / groups)
    used = math.ceil(width / size)
    if used < groups:
        raise ValueError(
            f"num_groups must leave no group empty, but of {groups} groups of {size} the {width} "
            f"{what} fill only {used}; use {used}"
        )


class GenLoraModel(AdapterModel):
    """The tuner model of GenLoRA."""

    prefix = "genlora_"
    tuner_layer_cls = GenLoraLinear


def peft_config(settings: Mapping[str, Any]) -> GenLoraConfig:
    """The PEFT config for the keys of ``conf/adapter/genlora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, GenLoraConfig.setting_names())
    return GenLoraConfig(**settings)


register_method("genlora", GenLoraConfig, GenLoraModel)
