"""Compute a frozen model's elementwise parts with Liger's Triton kernels, temporarily.

Norms, rotary positions and gated activations (SwiGLU, GeGLU) take one kernel launch each instead of
two to eight, and keep fewer activations for the backward pass (arXiv 2410.10989). The loss is this
package's own, which needs logits at supervised positions only.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError

ABSENT = object()


def validate_liger(device: torch.device) -> None:
    """Check that the device is one for Liger's kernels and that they are installed.

    Raises:
        UserError: Names what is missing.
    """
    if device.type != "cuda":
        raise UserError(
            f"trainer.liger=true needs a CUDA device, and this runs on {device.type}; use "
            "trainer.liger=false"
        )
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            "trainer.liger=true needs Liger's kernels: pip install 'toplora-train[liger]'"
        )


def validate_liger_model(model: nn.Module) -> None:
    """Check that Liger has kernels for the model's architecture.

    Raises:
        UserError: Names the architectures that it has kernels for.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = _base(model).config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise UserError(
            f"trainer.liger=true: Liger has no kernels for {kind} models (it has for "
            f"{', '.join(sorted(MODEL_TYPE_TO_APPLY_LIGER_FN))}); use trainer.liger=false"
        )


@contextmanager
def liger_layers(model: nn.Module) -> Iterator[None]:
    """Inside, Liger computes the model's norms, rotary positions and gated activations.

    Liger replaces methods of modules, and names in transformers' modules that later models would
    be built with: all of them are as before afterwards. Parameters and their names do not change.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    # Liger has several backends, and warns of each that is not installed.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    base = _base(model)
    modules = list(base.modules())
    names = {type(module): type(module).__name__ for module in modules}  # Liger renames classes
    sources = {name: sys.modules[name] for name in sorted(kind.__module__ for kind in names)}
    places = [vars(one) for one in (*modules, *sources.values())]
    before = [dict(place) for place in places]
    _apply_liger_kernel_to_instance(base, fused_linear_cross_entropy=False, cross_entropy=False)
    replaced = [
        {key: old.get(key, ABSENT) for key in place if place[key] is not old.get(key, ABSENT)}
        for place, old in zip(places, before, strict=True)
    ]
    try:
        yield
    finally:
        for place, values in zip(places, replaced, strict=True):
            for key, value in values.items():
                if value is ABSENT:
                    del place[key]
                else:
                    place[key] = value
        for kind, name in names.items():
            kind.__name__ = name


def _base(model: nn.Module) -> Any:
    return getattr(model, "get_base_model", lambda: model)()
