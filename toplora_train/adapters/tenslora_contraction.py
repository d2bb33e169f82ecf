"""The algebra of TensLoRA: a slice of a factorised tensor as two thin matrices.

A tensor T with modes input x output (x projection) (x layer) or, with the output split into heads,
input x coordinate x head (x projection) (x layer), is stored in factorised form:

    Tucker   T = core x_0 U_0 x_1 U_1 ... x_N U_N        core (r_0, ..., r_N), U_i (dim_i, r_i)
    CP       T = sum_k U_0[:, k] o ... o U_N[:, k]       U_i (dim_i, R)

A module needs one slice M (d_in, d_out) of it. Instead of materialising T, the rows of the small
modes (projection, layer) are multiplied into the core, and the resulting core into the output's
factors. This gives M = A^T B^T with

    A (r_0, d_in) = U_0^T,        B (d_out, r_0),

exactly a plain LoRA of rank r_0 (CP: R). The largest intermediate has d_out r_0 entries, or those
of the core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

FACTORIZATIONS = ("tucker", "cp")
INITS = ("orthogonal", "kaiming", "normal")
HEAD_LAYOUTS = ("model", "reference")
GQA = ("group", "reference")


def thin_factors(
    core: Tensor | None, factors: Sequence[Tensor], rows: Sequence[int], *, head_layout: str
) -> tuple[Tensor, Tensor]:
    """The slice of the tensor at the given rows of its last modes, as ``M = A^T B^T``.

    Args:
        core: ``(r_0, ..., r_N)`` for Tucker; None for CP.
        factors: ``(dim_i, r_i)`` of every mode: input, output (or coordinate and head), and the
            sliced modes.
        rows: An index into each of the last ``len(rows)`` modes.
        head_layout: The output of head h, coordinate j of D: ``model`` is ``h D + j``, as in
            transformers, ``reference`` is ``j H + h``, as in the authors' code. Ignored without a
            head mode.

    Returns:
        ``A (r_0, d_in)`` and ``B (d_out, r_0)``.
    """
    kept = len(factors) - len(rows)
    picked = [factor[row] for factor, row in zip(factors[kept:], rows, strict=True)]
    inputs, *outputs = factors[:kept]
    multiply = _cp_outputs if core is None else _tucker_outputs
    product = multiply(core if core is not None else inputs, outputs, picked)
    if product.dim() == 3:  # (head, coordinate, r_0)
        product = product if head_layout == "model" else product.transpose(0, 1)
        product = product.flatten(0, 1)
    return inputs.T, product


def _tucker_outputs(core: Tensor, outputs: Sequence[Tensor], picked: Sequence[Tensor]) -> Tensor:
    """``(d_out, r_0)`` or ``(head, coordinate, r_0)``."""
    for row in reversed(picked):
        core = core @ row
    if len(outputs) == 1:
        return outputs[0] @ core.T
    coordinate, head = outputs
    return torch.einsum("jb,abh->hja", coordinate, core @ head.T)


def _cp_outputs(inputs: Tensor, outputs: Sequence[Tensor], picked: Sequence[Tensor]) -> Tensor:
    """``(d_out, R)`` or ``(head, coordinate, R)``."""
    weights = inputs.new_ones(inputs.shape[1])
    for row in picked:
        weights = weights * row
    if len(outputs) == 1:
        return outputs[0] * weights
    coordinate, head = outputs
    return (head * weights)[:, None, :] * coordinate[None, :, :]


def average_shared_heads(outputs: Tensor, *, repeats: int, head_size: int, gqa: str) -> Tensor:
    """Average the output factor of a key or value projection over groups of query heads.

    Args:
        outputs: ``(d_out, r_0)``, with as many heads as the query.
        repeats: Query heads per key/value head.
        head_size: Coordinates per head.
        gqa: ``group``: each key/value head is the mean over the query heads that share it;
            ``reference``: the mean over ``repeats`` contiguous parts of the outputs, as in the
            authors' code, which mixes unrelated heads.

    Returns:
        ``(d_out / repeats, r_0)``.
    """
    if repeats == 1:
        return outputs
    rank = outputs.shape[1]
    if gqa == "reference":
        return outputs.view(repeats, -1, rank).mean(dim=0)
    return outputs.reshape(-1, repeats, head_size, rank).mean(dim=1).flatten(0, 1)


def initial_factors(
    sizes: Sequence[int], ranks: Sequence[int], *, factorization: str, init: str
) -> tuple[Tensor | None, list[Tensor]]:
    """A new core (None with CP) and new factors; one of them is zero, so that the tensor is zero.

    With Tucker the core is zero, with CP the input factor. The others are ``orthogonal``
    (orthonormal columns, or rows if the rank exceeds the size), ``kaiming`` (uniform within
    1/sqrt(r_i)) or ``normal``, with the standard deviation at which a product of N factors and a
    core drawn likewise has entries of variance about one: prod(r_i)^(-1 / (2 (N + 1))) for Tucker,
    R^(-1 / (2 N)) for CP.

    Args:
        sizes: ``dim_i`` of every mode.
        ranks: ``r_i`` of every mode; all equal with CP.
        factorization: ``tucker`` or ``cp``.
        init: ``orthogonal``, ``kaiming`` or ``normal``.

    Returns:
        The core ``(r_0, ..., r_N)`` and the factors ``(dim_i, r_i)``, float32.
    """
    tucker = factorization == "tucker"
    exponent = 1 / (2 * (len(sizes) + 1)) if tucker else 1 / (2 * len(sizes))
    deviation = (math.prod(ranks) if tucker else ranks[0]) ** -exponent
    factors = [torch.zeros(size, rank) for size, rank in zip(sizes, ranks, strict=True)]
    for factor in factors if tucker else factors[1:]:
        if init == "orthogonal":
            nn.init.orthogonal_(factor)
        elif init == "kaiming":
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
        else:
            nn.init.normal_(factor, std=deviation)
    return (torch.zeros(*ranks) if tucker else None), factors
