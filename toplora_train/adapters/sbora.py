"""SBoRA: LoRA with one factor a frozen matrix of standard basis vectors.

Paper: "SBoRA: Low-Rank Adaptation with Regional Weight Updates" (arXiv 2407.05413).

    side=input  (SBoRA-FA):  y = W0 x + s B drop(x)[J],     B trained
    side=output (SBoRA-FB):  y = W0 x,  y[J] += s A drop(x),  A trained

Shapes: W0 (m, n) frozen, J r distinct inputs (or outputs) of the layer, B (m, r) or A (r, n);
x (..., n), y (..., m). s = alpha / r, or alpha / sqrt(r) with rank-stabilised scaling. It is
LoRA with A (or B) a one-hot matrix, so r columns (or rows) of W0 are trained in full.

Start: J drawn uniformly without replacement for each layer and saved in the adapter's file; the
trained factor is zero, so that the update is exactly zero.

Parameters: m r per module with ``side: input``, n r with ``side: output``: half of LoRA's where
n = m. Cost: one thin product and a gather (or scatter) per token; nothing is multiplied by the
one-hot matrix. Merges: the update is r columns (or rows) of a matrix; it exports as plain LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplora_train.adapters.base import AdapterLinear, AdapterModel, FrozenTensors, register_method
from toplora_train.adapters.checks import check_choice, check_keys
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.low_rank import at_least_float32

SIDES = ("input", "output")


@dataclass
class SboraConfig(LowRankConfig):
    """PEFT config of SBoRA: the settings of LoRA and ``side``.

    Args:
        side: ``input``: r inputs of a layer are read and B is trained (FA); ``output``: r outputs
            are changed and A is trained (FB).
    """

    method: ClassVar[str] = "sbora"

    side: str = "input"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("side", self.side, SIDES)


class SboraLinear(AdapterLinear):
    """A frozen linear layer of which r inputs or outputs are adapted."""

    prefix: ClassVar[str] = "sbora_"
    adapter_layer_names = ("sbora_A", "sbora_B")
    frozen_names = ("sbora_index",)

    sbora_index: FrozenTensors
    sbora_A: nn.ParameterDict  # noqa: N815 - the paper's capital
    sbora_B: nn.ParameterDict  # noqa: N815 - the paper's capital

    def initial_tensors(self, config: SboraConfig, module_name: str) -> Mapping[str, Tensor]:
        """J drawn at random, the trained factor zero.

        Raises:
            ValueError: The layer has fewer inputs (or outputs) than the rank.
        """
        r, n, m = config.rank_for(module_name), self.in_features, self.out_features
        reads = config.side == "input"
        size = n if reads else m
        if r > size:
            raise ValueError(
                f"r must be at most {size}, the number of {config.side}s of {module_name}, of "
                f"which SBoRA draws r, not {r}"
            )
        trained = {"sbora_B": torch.zeros(m, r)} if reads else {"sbora_A": torch.zeros(r, n)}
        return {**trained, "sbora_index": torch.randperm(size)[:r].sort().values}

    def validate_loaded(self, adapter_name: str) -> None:
        """J must be r distinct inputs (or outputs) of the layer."""
        index = self.sbora_index[adapter_name].tolist()
        size = self.in_features if adapter_name in self.sbora_B else self.out_features
        if len(set(index) & set(range(size))) < len(index):
            raise ValueError(f"sbora_index must be {len(index)} different numbers below {size}")

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """``(..., n) -> (..., m)``."""
        index, scaling = self.sbora_index[adapter_name], self.scaling[adapter_name]
        dropout = self.dropout(adapter_name)
        if adapter_name in self.sbora_B:
            B = self.sbora_B[adapter_name].to(x.dtype)
            return F.linear(dropout(x.index_select(-1, index)) * scaling, B)
        hidden = F.linear(dropout(x), self.sbora_A[adapter_name].to(x.dtype)) * scaling
        zero = hidden.new_zeros(*x.shape[:-1], self.out_features)
        return zero.index_copy(-1, index, hidden)

    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """A and B, one of them one-hot."""
        index, scaling = self.sbora_index[adapter_name], self.scaling[adapter_name]
        if adapter_name in self.sbora_B:
            B = at_least_float32(self.sbora_B[adapter_name])
            return F.one_hot(index, self.in_features).to(B.dtype), B * scaling
        A = at_least_float32(self.sbora_A[adapter_name])
        return A, F.one_hot(index, self.out_features).T.to(A.dtype) * scaling


class SboraModel(AdapterModel):
    """The tuner model of SBoRA."""

    prefix = "sbora_"
    tuner_layer_cls = SboraLinear


def peft_config(settings: Mapping[str, Any]) -> SboraConfig:
    """The PEFT config for the keys of ``conf/adapter/sbora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, SboraConfig.setting_names())
    return SboraConfig(**settings)


register_method("sbora", SboraConfig, SboraModel)
