"""Read what adapted layers compute for a text's tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn


def observe(
    model: PeftModel,
    ids: Sequence[int],
    layers: Mapping[str, nn.Module],
    read: Callable[[Any, Tensor], Tensor],
) -> dict[str, Tensor]:
    """What ``read`` finds in each layer for a text, ``(tokens, ...)``, in float32 on the CPU.

    Args:
        model: A model in evaluation mode.
        ids: The text's token ids.
        layers: Modules of the model by name.
        read: Gets a layer and its input, ``(1, tokens, n)``, before the layer computes.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks, torch.inference_mode():
        for name, layer in layers.items():

            def before(own: Any, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found[name] = read(own, inputs[0])[0].float().cpu()

            hooks.callback(layer.register_forward_pre_hook(before).remove)
        takes = inspect.signature(model.get_base_model().forward).parameters
        few = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}  # none is read
        model(input_ids=torch.tensor([list(ids)], device=next(model.parameters()).device), **few)
    return found
