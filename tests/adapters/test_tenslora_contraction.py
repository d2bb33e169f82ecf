"""The contraction equals dense tensors, without materialising them."""

import itertools
import math
import string

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from toplora_train.adapters.tenslora_contraction import (
    average_shared_heads,
    initial_factors,
    thin_factors,
)

INPUTS, COORDINATES, HEADS, PROJECTIONS, LAYERS = 10, 4, 3, 3, 5
OUTPUTS = HEADS * COORDINATES
BIG_MODES = {"plain": (INPUTS, OUTPUTS), "heads": (INPUTS, COORDINATES, HEADS)}
SMALL_MODES = ((), (PROJECTIONS,), (LAYERS,), (PROJECTIONS, LAYERS))
CASES = list(itertools.product(BIG_MODES, SMALL_MODES, ("tucker", "cp")))


def drawn(sizes: tuple[int, ...], factorization: str, dtype: torch.dtype = torch.float64):
    """A core (None with CP) and factors, with different ranks where possible."""
    torch.manual_seed(len(sizes))
    ranks = [2 + index for index in range(len(sizes))] if factorization == "tucker" else [3] * 9
    factors = [
        torch.randn(size, rank, dtype=dtype) for size, rank in zip(sizes, ranks, strict=False)
    ]
    core = torch.randn(*ranks, dtype=dtype) if factorization == "tucker" else None
    return core, factors


def dense(core: torch.Tensor | None, factors: list[torch.Tensor]) -> torch.Tensor:
    """The whole tensor, by its definition."""
    modes = string.ascii_lowercase[: len(factors)]
    if core is None:
        return torch.einsum(",".join(f"{mode}z" for mode in modes) + f"->{modes}", *factors)
    ranks = modes.upper()
    pairs = ",".join(mode + rank for mode, rank in zip(modes, ranks, strict=True))
    return torch.einsum(f"{ranks},{pairs}->{modes}", core, *factors)


@pytest.mark.parametrize(("big", "small", "factorization"), CASES)
@pytest.mark.parametrize("head_layout", ["model", "reference"])
def test_every_slice_is_that_of_the_dense_tensor(
    big: str, small: tuple[int, ...], factorization: str, head_layout: str
):
    core, factors = drawn((*BIG_MODES[big], *small), factorization)
    tensor = dense(core, factors)
    for rows in itertools.product(*(range(size) for size in small)):
        A, B = thin_factors(core, factors, rows, head_layout=head_layout)
        M = tensor[(..., *rows)]
        for h, j in itertools.product(range(HEADS), range(COORDINATES)):
            column = h * COORDINATES + j
            if big == "plain":
                expected = M[:, column]
            else:
                expected = M[:, j, h]
                column = column if head_layout == "model" else j * HEADS + h
            torch.testing.assert_close(A.T @ B[column], expected)
        assert A.shape == (factors[0].shape[1], INPUTS)
        assert B.shape == (OUTPUTS, factors[0].shape[1])


@pytest.mark.parametrize(("big", "small", "factorization"), CASES)
def test_gradients_agree_with_finite_differences(
    big: str, small: tuple[int, ...], factorization: str
):
    core, factors = drawn((*BIG_MODES[big], *small), factorization)
    tensors = [tensor.requires_grad_() for tensor in ([] if core is None else [core]) + factors]
    rows = tuple(size - 1 for size in small)

    def slice_of(*tensors: torch.Tensor) -> torch.Tensor:
        first, *rest = tensors
        core, factors = (first, rest) if factorization == "tucker" else (None, list(tensors))
        A, B = thin_factors(core, factors, rows, head_layout="model")
        return B @ A

    assert torch.autograd.gradcheck(slice_of, tensors, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
@pytest.mark.parametrize("rank", [4, 8])
def test_forward_and_backward_materialise_nothing_larger_than_a_thin_factor(
    heads: bool, factorization: str, rank: int
):
    inputs, coordinates, number = 96, 32, 4
    outputs = (coordinates, number) if heads else (coordinates * number,)
    sizes = (inputs, *outputs, 3, 2)
    core, factors = initial_factors(
        sizes, [rank] * len(sizes), factorization=factorization, init="normal"
    )
    for tensor in [*factors, *([] if core is None else [core])]:
        tensor.requires_grad_()
    with LargestTensor() as largest:
        A, B = thin_factors(core, factors, (1, 1), head_layout="model")
        average_shared_heads(B, repeats=2, head_size=coordinates, gqa="group").sum().backward()
        A.sum().backward()
    largest_core = 0 if core is None else core.numel()
    assert largest.numel <= max(coordinates * number * rank, inputs * rank, largest_core)


@pytest.mark.parametrize("repeats", [1, 2, 3, 6])
def test_a_shared_head_is_the_mean_of_its_query_heads(repeats: int):
    heads, size, rank = 6, 4, 2
    outputs = torch.randn(heads * size, rank, dtype=torch.float64)
    averaged = average_shared_heads(outputs, repeats=repeats, head_size=size, gqa="group")
    assert averaged.shape == (heads * size // repeats, rank)
    for group, j in itertools.product(range(heads // repeats), range(size)):
        members = [outputs[h * size + j] for h in range(heads) if h // repeats == group]
        assert len(members) == repeats
        torch.testing.assert_close(averaged[group * size + j], sum(members) / repeats)


def test_the_references_grouping_is_the_mean_of_contiguous_parts():
    outputs = torch.randn(24, 2)
    averaged = average_shared_heads(outputs, repeats=4, head_size=3, gqa="reference")
    torch.testing.assert_close(
        averaged, (outputs[:6] + outputs[6:12] + outputs[12:18] + outputs[18:]) / 4
    )


@pytest.mark.parametrize("init", ["orthogonal", "kaiming", "normal"])
@pytest.mark.parametrize("factorization", ["tucker", "cp"])
def test_the_tensor_starts_at_zero_through_a_single_part(factorization: str, init: str):
    sizes, ranks = (30, 20, 3), (5, 5, 5)
    core, factors = initial_factors(sizes, ranks, factorization=factorization, init=init)
    zero, *others = factors if core is None else [core, *factors]
    assert not zero.any()
    assert all(other.all() for other in others)
    assert [tuple(factor.shape) for factor in factors] == [(30, 5), (20, 5), (3, 5)]
    assert core is None or core.shape == ranks


def test_orthogonal_factors_have_orthonormal_columns_or_rows():
    _, (tall, wide) = initial_factors((40, 3), (8, 8), factorization="tucker", init="orthogonal")
    torch.testing.assert_close(tall.T @ tall, torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(wide @ wide.T, torch.eye(3), atol=1e-5, rtol=0)


def test_kaiming_factors_are_uniform_within_the_rank_s_root():
    torch.manual_seed(0)
    _, (factor, _) = initial_factors((4000, 3), (16, 16), factorization="tucker", init="kaiming")
    assert factor.abs().max() <= 1 / 4
    assert factor.std().item() == pytest.approx(1 / 4 / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("factorization", ["tucker", "cp"])
def test_normal_factors_give_a_tensor_of_variance_one(factorization: str):
    torch.manual_seed(0)
    ranks = (6, 5, 4) if factorization == "tucker" else (6, 6, 6)
    variances = []
    for _ in range(300):
        core, factors = initial_factors(
            (8, 8, 8), ranks, factorization=factorization, init="normal"
        )
        deviation = factors[1].std()
        if core is None:
            factors[0].normal_(std=deviation)
        else:
            core.normal_(std=deviation)
        variances.append(dense(core, factors).var())
    assert torch.stack(variances).mean().item() == pytest.approx(1, rel=0.15)


def test_tensors_are_drawn_independently():
    (_, first), (_, second) = (
        initial_factors((8, 8, 3), (4, 4, 4), factorization="tucker", init="orthogonal")
        for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert not torch.allclose(one, other)
    assert not torch.allclose(first[0], first[1])
