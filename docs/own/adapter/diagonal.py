"""Diagonal: a trained factor for every input of a layer.

    y = W0 x + scale W0 (d * drop(x))

Shapes: W0 (m, n) frozen, d (n); x (..., n), y (..., m). Start: d zero, so the update is zero.

Parameters: n per module. Merges: W0 (I + scale diag(d)).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplora_train.adapters.base import (
    AdapterLinear,
    AdapterModel,
    frozen_weight,
    register_method,
)
from toplora_train.adapters.checks import check_keys, check_positive_number
from toplora_train.adapters.configs import AdapterConfig


@dataclass
class DiagonalConfig(AdapterConfig):
    """PEFT config of Diagonal: the settings of every adapter, and ``scale``."""

    method: ClassVar[str] = "diagonal"

    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_number("scale", self.scale)

    def scaling_for(self, module_name: str) -> float:
        """The factor of the update, the same in every module."""
        return self.scale


class DiagonalLinear(AdapterLinear):
    """A frozen linear layer with the update ``scale W0 (d * drop(x))``."""

    prefix: ClassVar[str] = "diagonal_"
    adapter_layer_names = ("diagonal_d",)

    diagonal_d: nn.ParameterDict

    def initial_tensors(self, config: DiagonalConfig, module_name: str) -> Mapping[str, Tensor]:
        """Zero."""
        return {"diagonal_d": torch.zeros(self.in_features)}

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """``(..., n) -> (..., m)``."""
        factors = self.diagonal_d[adapter_name] * self.scaling[adapter_name]
        x = self.dropout(adapter_name)(x) * factors
        return F.linear(x, frozen_weight(self).to(x.dtype))

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """``scale W0 diag(d)``, which is not a product of two thin matrices."""
        return frozen_weight(self) * self.diagonal_d[adapter_name] * self.scaling[adapter_name]


class DiagonalModel(AdapterModel):
    """The tuner model of Diagonal."""

    prefix = "diagonal_"
    tuner_layer_cls = DiagonalLinear


def peft_config(settings: Mapping[str, Any]) -> DiagonalConfig:
    """The PEFT config for the keys of ``diagonal.yaml``."""
    check_keys(settings, DiagonalConfig.setting_names())
    return DiagonalConfig(**settings)


register_method("diagonal", DiagonalConfig, DiagonalModel)
