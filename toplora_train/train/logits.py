"""Compute logits at selected positions only, keeping what the model does after its head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def logits_only_at(model: nn.Module, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Inside, the model returns logits for these N positions only: ``(1, N, vocabulary)``."""
    inner: Any = getattr(model, "module", model)  # DDP's wrapper hides it
    base = inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    def select(_head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden[rows, positions][None], *rest)

    handle = base.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
