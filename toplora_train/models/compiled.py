"""Compile the repeated layers with ``torch.compile``, temporarily."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch._dynamo.config
from torch import nn

from toplora_train.models.layers import repeated_layers

# Of one layer there are 16 graphs: in training or evaluating, with a gradient or without, with a
# padding mask or without, and with an input that has a gradient or, in the first layer, has none.
# Beyond the limit, which is 8 by default, torch runs the layer uncompiled.
GRAPHS = 32


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
        with torch._dynamo.config.patch(recompile_limit=GRAPHS):
            yield
    finally:
        for layer in layers:
            del layer.forward
