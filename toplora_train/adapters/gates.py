"""TopLoRA's gates: their values for tokens, statistics over tokens, and the model with them fixed.

The gates are computed from the layers' inputs in an ordinary forward pass
(:func:`toplora_train.adapters.toplora.gate_of`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor

from toplora_train.adapters.observe import observe
from toplora_train.adapters.toplora import ACTIVATIONS, TopLoraLinear

DEAD = 0.05
"""A direction is dead if its gate is smaller than this in size for 95 % of the tokens."""
SATURATED = 0.95
"""A direction is saturated if its gate exceeds this part of its bound for 95 % of the tokens."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def gated_layers(model: PeftModel, adapter_name: str = "default") -> dict[str, TopLoraLinear]:
    """The layers with a gate by their names in the base model."""
    return {
        name: module
        for name, module in model.base_model.model.named_modules()
        if isinstance(module, TopLoraLinear)
        and adapter_name in module.configs
        and module.configs[adapter_name].gate.enabled
    }


def gates_of(
    model: PeftModel, ids: Sequence[int], adapter_name: str = "default"
) -> dict[str, Tensor]:
    """The gates of a text's tokens by layer, ``(tokens, r)``, in float32 on the CPU.

    Args:
        model: A model in evaluation mode.
        ids: The text's token ids.
        adapter_name: The active adapter.
    """
    layers = gated_layers(model, adapter_name)
    return observe(model, ids, layers, lambda layer, x: layer_gate(layer, x, adapter_name))


def layer_gate(layer: TopLoraLinear, x: Tensor, adapter_name: str) -> Tensor:
    """The gate of a layer's input: ``(..., n) -> (..., r)``."""
    gate = layer.low_rank(adapter_name).gate
    assert gate is not None  # of a gated layer
    return gate.function(F.linear(x.to(gate.theta.dtype), gate.theta.T), gate.gain)


@torch.no_grad()
def largest_gate(layer: TopLoraLinear, adapter_name: str = "default") -> Tensor:
    r"""The bound of each direction's gate, ``(r,)``; infinity if it has none.

    A vector of r entries with root mean square one has entries up to :math:`\sqrt r`; one with mean
    zero and variance one, up to :math:`\sqrt{r - 1}`. The gain multiplies this.
    """
    gate, r = layer.configs[adapter_name].gate, layer.toplora_theta[adapter_name].shape[1]
    gain = layer.toplora_gain.get(adapter_name)
    size = {"rms": math.sqrt(r), "layer": math.sqrt(r - 1), "none": math.inf}[gate.norm]
    logits = torch.full((r,), size) if gain is None else gain.float().abs().cpu() * size
    return ACTIVATIONS[gate.activation](logits)


def gate_statistics(gates: Tensor, bound: Tensor) -> dict[str, list[Any]]:
    """Statistics of a layer's gates over tokens, for each direction.

    Args:
        gates: ``(tokens, r)``.
        bound: :func:`largest_gate`, ``(r,)``.

    Returns:
        ``mean``, ``deviation`` (of the population), ``quantiles`` (of each direction at
        ``QUANTILES``), and the directions that are ``dead`` and ``saturated``, counted from 1.
    """
    gates, most = gates.double(), 0.95
    dead = (gates.abs() < DEAD).double().mean(0) >= most
    saturated = (gates > SATURATED * bound.double()).double().mean(0) >= most
    quantiles = torch.quantile(gates, torch.tensor(QUANTILES, dtype=gates.dtype), dim=0)
    return {
        "mean": gates.mean(0).tolist(),
        "deviation": gates.std(0, correction=0).tolist(),
        "quantiles": quantiles.T.tolist(),
        "dead": (dead.nonzero().flatten() + 1).tolist(),
        "saturated": (saturated.nonzero().flatten() + 1).tolist(),
    }


@contextmanager
def fixed_gates(
    model: PeftModel, values: Mapping[str, Tensor] | None = None, adapter_name: str = "default"
) -> Iterator[None]:
    """Inside, each gate has the same value for all tokens: the adapter is a plain LoRA.

    Args:
        model: The model; it is as before afterwards.
        values: The gates by layer, ``(r,)``; None sets them to one.
        adapter_name: The adapter.
    """
    layers = gated_layers(model, adapter_name)
    before = {
        name: (layer.configs[adapter_name], layer.toplora_A[adapter_name].detach().clone())
        for name, layer in layers.items()
    }
    try:
        for name, layer in layers.items():
            config = copy.copy(layer.configs[adapter_name])
            config.gate = dataclasses.replace(config.gate, enabled=False)
            layer.configs[adapter_name] = config
            if values is not None:
                A = layer.toplora_A[adapter_name].data
                A.mul_(values[name].to(A)[:, None])
        yield
    finally:
        for name, (config, A) in before.items():
            layers[name].configs[adapter_name] = config
            layers[name].toplora_A[adapter_name].data.copy_(A)
