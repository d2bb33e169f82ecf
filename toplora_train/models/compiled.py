"""Decoder layers compiled by ``torch.compile``, one by one and for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that a model is a stack of, as transformers names them."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    names = set(getattr(base, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


@contextmanager
def compiled_layers(model: nn.Module, backend: str | None) -> Iterator[None]:
    """Inside, each layer of the stack is compiled; nothing is, where there is no backend.

    A layer and not the model: they are alike, so that one is compiled for all, and what is hooked
    in between (recomputation, shared-out tensors, the choice of positions before the head) stays as
    it is. No module is wrapped, so names stay as well. Lengths are symbols: a batch of another
    length is not compiled anew.
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
