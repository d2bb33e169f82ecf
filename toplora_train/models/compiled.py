"""Compile the repeated layers with ``torch.compile``, temporarily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The model's repeated layers, by the class names in transformers' ``_no_split_modules``."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def compiled_layers(model: nn.Module, backend: str | None) -> Iterator[None]:
    """Inside, each repeated layer is compiled; without a backend nothing is.

    Layers rather than the model: they are alike, so one compilation serves all, and hooks between
    them (activation checkpointing, FSDP, selecting positions before the head) keep working. Modules
    are not wrapped, so parameter names stay. Shapes are dynamic: new lengths need no recompilation.
    """
    if backend is None:
        yield
        return
    layers = repeated_layers(model)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=True)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
