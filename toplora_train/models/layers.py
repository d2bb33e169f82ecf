"""The layers that a model repeats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The model's repeated layers, by the class names in transformers' ``_no_split_modules``."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def first_layers(model: nn.Module, count: int) -> Iterator[None]:
    """Inside, the model has only ``count`` of its repeated layers."""
    layers = set(repeated_layers(model))
    stacks = [
        (module, list(module))
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and layers.intersection(module)
    ]
    for stack, _ in stacks:
        del stack[count:]
    try:
        yield
    finally:
        for stack, whole in stacks:
            stack.extend(whole[count:])
