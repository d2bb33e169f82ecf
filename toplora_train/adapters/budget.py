"""Choose the rank from a parameter budget.

A budget is a number (``4.7M``, ``350k``, ``147456``), a fraction of the base model (``0.1%``), or
the size of a LoRA on the same modules (``lora_r8``). Parameters are counted by attaching the
adapter to a model without weights, so no formula can disagree with the adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from toplora_train.config.errors import UserError

Count = Callable[[Mapping[str, Any]], int]
"""The number of parameters of the adapter with the given settings on this model."""

UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
SHARED_SETTINGS = ("target_modules", "exclude_modules", "layers_to_transform")
FORMS = "a number such as 4.7M, a fraction of the base model such as 0.1%, or lora_r8"


@dataclass(frozen=True)
class Fit:
    """The settings chosen for a budget, their parameter count and the budget itself."""

    settings: dict[str, Any]
    parameters: int
    wanted: int

    def __str__(self) -> str:
        key = "ranks" if self.settings.get("ranks") is not None else "r"
        miss = (self.parameters - self.wanted) / self.wanted
        return (
            f"{key} = {self.settings[key]}: {self.parameters:,} parameters for a budget of "
            f"{self.wanted:,} ({miss:+.2%})"
        )


def fit_budget(
    settings: Mapping[str, Any],
    *,
    count: Count,
    base_parameters: int,
    tensors: Sequence[Sequence[int]] | None = None,
    step: int = 1,
) -> Fit:
    """Choose the rank whose parameter count is nearest to ``settings["budget"]``.

    The modes of a Tucker tensor get one common rank, each at most its size; then the rank of the
    first mode (the rank of the update) is raised to use the rest of the budget.

    Args:
        settings: An adapter's settings, including ``budget``.
        count: Counts an adapter's parameters on this model.
        base_parameters: Parameters of the base model.
        tensors: The mode sizes of each Tucker tensor, if ``ranks`` can set a rank per mode.
        step: Every rank is a multiple of it.

    Raises:
        TypeError, ValueError: The budget is invalid or out of reach; starts with ``budget``.
    """
    own = {key: value for key, value in settings.items() if key != "budget"}
    for key in ("rank_pattern", "ranks"):
        if own.get(key):
            raise ValueError(f"budget and {key} exclude each other: both set the rank")
    wanted = parameters_of(settings["budget"], settings, count, base_parameters)

    if tensors is None:

        @cache
        def cost(r: int) -> float:
            try:
                return count({**own, "r": r * step})
            except UserError:
                if r == 1:  # whatever is wrong, it is not the rank
                    raise
                return math.inf  # a rank that does not fit this model

        fitted = {**own, "r": nearest_rank(cost, wanted) * step}
    else:
        fitted = {**own, "ranks": nearest_mode_ranks(tensors, wanted)}
    return Fit(fitted, count(fitted), wanted)


def parameters_of(
    budget: object, settings: Mapping[str, Any], count: Count, base_parameters: int
) -> int:
    """A budget as a number of parameters.

    Raises:
        TypeError, ValueError: It is invalid.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float | str):
        raise TypeError(f"budget must be {FORMS}, not {budget!r}")
    text = str(budget).strip().lower().replace("_", "").replace(",", "")
    lora = re.fullmatch(r"lorar(\d+)", text)
    number = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmb%]?)", text)
    if lora:
        shared = {key: settings.get(key) for key in SHARED_SETTINGS}
        wanted = count({"name": "lora", "r": int(lora[1]), **shared})
    elif number and number[2] == "%":
        wanted = round(base_parameters * float(number[1]) / 100)
    elif number:
        wanted = round(float(number[1]) * UNITS[number[2]])
    else:
        raise ValueError(f"budget must be {FORMS}, not {budget!r}")
    if wanted < 1:
        raise ValueError(f"budget must be at least one parameter, not {budget!r}")
    return wanted


def nearest_rank(cost: Callable[[int], float], wanted: int) -> int:
    """The rank (at least 1) whose cost is nearest to ``wanted``.

    Args:
        cost: Parameters by rank, increasing; infinite for ranks too large for the model.
        wanted: The budget in parameters.

    Raises:
        ValueError: Even rank 1 exceeds the budget, or the largest rank is far below it.
    """
    low, high = ranks_around(cost, wanted)
    if math.isinf(cost(high)) and cost(low) < 0.99 * wanted:
        raise ValueError(
            f"budget of {wanted:,} parameters is above the largest adapter, of {cost(low):,.0f} "
            f"(rank {low}); allow fewer parameters"
        )
    return low if wanted - cost(low) <= cost(high) - wanted else high


def ranks_around(cost: Callable[[int], float], wanted: int) -> tuple[int, int]:
    """Two consecutive ranks: the first costs at most ``wanted``, the second more.

    Raises:
        ValueError: Even rank 1 costs more.
    """
    least = cost(1)
    if least > wanted:
        raise ValueError(
            f"budget of {wanted:,} parameters is below the smallest adapter, of {least:,.0f} "
            "(rank 1); adapt fewer modules by target_modules, or allow more parameters"
        )
    slope = cost(2) - least
    if slope == 0:
        raise ValueError("budget sets the rank, but this adapter's size does not depend on it")
    if math.isfinite(slope):
        guess = 1 + int((wanted - least) / slope)  # exact if costs are affine in the rank
        if cost(guess) <= wanted < cost(guess + 1):
            return guess, guess + 1
    low, high = 1, 2
    while cost(high) <= wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= wanted else (low, middle)
    return low, high


def nearest_mode_ranks(tensors: Sequence[Sequence[int]], wanted: int) -> list[int]:
    """A rank per mode of Tucker tensors: a common one, clipped to each size, then the first's.

    Args:
        tensors: The sizes of each tensor's modes, in order.
        wanted: The budget in parameters.

    Raises:
        ValueError: As :func:`nearest_rank`.
    """
    smallest = [min(of_one_mode) for of_one_mode in zip(*tensors, strict=True)]

    def cost(ranks: Sequence[int]) -> float:
        if ranks[0] > smallest[0]:
            return math.inf
        return sum(_dot(ranks, sizes) + math.prod(ranks) for sizes in tensors)

    def common(r: int) -> list[int]:
        return [r, *(min(r, size) for size in smallest[1:])]

    others = common(ranks_around(lambda r: cost(common(r)), wanted)[0])[1:]
    return [nearest_rank(lambda r: cost([r, *others]), wanted), *others]


def _dot(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(first, second, strict=True))
