"""TopLoRA: LoRA whose rank-one directions are weighted by a gate for each token.

Paper: "Token-wise Projected Low-Rank Adaptation" (arXiv 2510.23123, NeurIPS 2025).

    gate(x) = exp( RMSNorm_r( x Theta ) )
    y       = W0 x + s B ( A drop(x) * gate(x) )

Shapes: W0 (m, n) frozen, A (r, n), B (m, r), Theta (n, r), the norm's gain (r); x (..., n),
gate (..., r), y (..., m). s = alpha / r, or alpha / sqrt(r) with rank-stabilised scaling.

Start: A and Theta uniform in +-1/sqrt(n), gain one, B zero, so the update is exactly zero.
The gate sees x without dropout. It depends on the token, so no fixed matrix holds the update and it
cannot be merged. Theta = 0 gives gate = 1, which is LoRA; so does ``gate.enabled: false``.

Parameters: r (2 n + m) + r per module, r n + r of them the gate's: 1.5 times LoRA's where n = m.
Cost: LoRA's and a third thin product, which without dropout is computed together with A's.
Merges: not with its gate; it stays an adapter, loaded by PEFT after ``import toplora_train``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplora_train.adapters.base import (
    AdapterLinear,
    AdapterModel,
    register_method,
)
from toplora_train.adapters.checks import (
    check_boolean,
    check_choice,
    check_keys,
    check_positive_number,
)
from toplora_train.adapters.configs import LowRankConfig
from toplora_train.adapters.low_rank import Gate, LowRank

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "identity": lambda logits: logits,
}
NORMS = ("rms", "layer", "none")
INITS = ("kaiming", "zeros")
PAPER_BF16_EPS = 2.0**-7
"""Machine epsilon of bfloat16, used in bf16 runs by torch versions that take it from the dtype."""


@dataclass
class GateSettings:
    """How the gate is computed from ``x Theta``; the defaults are the paper's.

    Args:
        activation: ``exp`` (paper), ``softplus``, ``sigmoid`` or ``identity``.
        norm: ``rms`` (paper) or ``layer``, over the r entries with a learned gain; or ``none``.
        init: Theta's initialisation: ``kaiming`` (paper: as A) or ``zeros`` (gate 1 at the start).
        eps: The norm's epsilon: a number, None for float32's machine epsilon whatever the dtype, or
            ``"paper-bf16"`` for 2^-7, bfloat16's.
        enabled: False removes the gate and its parameters: plain LoRA.
    """

    activation: str = "exp"
    norm: str = "rms"
    init: str = "kaiming"
    eps: float | str | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        check_choice("gate.activation", self.activation, tuple(ACTIVATIONS))
        check_choice("gate.norm", self.norm, NORMS)
        check_choice("gate.init", self.init, INITS)
        check_boolean("gate.enabled", self.enabled)
        if isinstance(self.eps, str):
            if self.eps != "paper-bf16":
                raise ValueError(
                    f"gate.eps must be a positive number, null or 'paper-bf16', not {self.eps!r}"
                )
        elif self.eps is not None:
            check_positive_number("gate.eps", self.eps)

    @property
    def epsilon(self) -> float:
        """The norm's epsilon as a number."""
        if self.eps is None:
            return torch.finfo(torch.float32).eps
        return PAPER_BF16_EPS if self.eps == "paper-bf16" else float(self.eps)

    @property
    def paper_epsilon(self) -> float | None:
        """The norm's epsilon if the gate is the paper's, else None."""
        return self.epsilon if (self.activation, self.norm) == ("exp", "rms") else None


@dataclass
class TopLoraConfig(LowRankConfig):
    """PEFT config of TopLoRA: the settings of LoRA and the ``gate`` (:class:`GateSettings`)."""

    method: ClassVar[str] = "toplora"

    gate: GateSettings = field(default_factory=GateSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.gate, Mapping):  # from YAML, or from adapter_config.json
            check_keys(
                self.gate,
                [entry.name for entry in dataclasses.fields(GateSettings)],
                prefix="gate.",
            )
            self.gate = GateSettings(**self.gate)
        elif not isinstance(self.gate, GateSettings):
            raise TypeError(f"gate must be a mapping of gate settings, not {self.gate!r}")


def gate_of(
    logits: Tensor, gain: Tensor | None, *, activation: str, norm: str, epsilon: float
) -> Tensor:
    """The gate in r-space: ``activation(norm(logits) * gain)``.

    Half-precision logits are normalised and activated in float32: r numbers per token are cheap,
    and ``exp`` magnifies rounding.

    Args:
        logits: ``x Theta``, ``(..., r)``.
        gain: The norm's gain ``(r)``; None with ``norm="none"``.
        activation: A key of :data:`ACTIVATIONS`.
        norm: One of :data:`NORMS`.
        epsilon: Added to the mean square (or variance) under the root.

    Returns:
        ``(..., r)``, float32 or wider.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    gain = None if gain is None else gain.to(logits.dtype)
    rank = (logits.shape[-1],)
    if norm == "rms":
        logits = F.rms_norm(logits, rank, gain, epsilon)
    elif norm == "layer":
        logits = F.layer_norm(logits, rank, gain, None, epsilon)
    return ACTIVATIONS[activation](logits)


class TopLoraLinear(AdapterLinear):
    """A frozen linear layer with the update ``s B (A drop(x) * gate(x))``."""

    prefix: ClassVar[str] = "toplora_"
    adapter_layer_names = ("toplora_A", "toplora_B", "toplora_theta", "toplora_gain")
    unmergeable_reason: ClassVar[str | None] = (
        "TopLoRA cannot be merged: its gate depends on each token, so no fixed weight holds the "
        "update; keep it as an adapter (after `import toplora_train` PEFT loads it), or train "
        "adapter.gate.enabled=false, adapter=lora or adapter=dora, which merge"
    )

    toplora_A: nn.ParameterDict  # noqa: N815 - the paper's capital
    toplora_B: nn.ParameterDict  # noqa: N815 - the paper's capital
    toplora_theta: nn.ParameterDict
    toplora_gain: nn.ParameterDict

    def initial_tensors(self, config: TopLoraConfig, module_name: str) -> Mapping[str, Tensor]:
        """A and Theta uniform in +-1/sqrt(n) (Kaiming-uniform, a = sqrt 5), B zero, gain one."""
        r = config.rank_for(module_name)
        n, m = self.in_features, self.out_features
        bound = 1 / math.sqrt(n)
        tensors = {
            "toplora_A": torch.empty(r, n).uniform_(-bound, bound),
            "toplora_B": torch.zeros(m, r),
        }
        if config.gate.enabled:
            theta = torch.zeros(n, r)
            if config.gate.init == "kaiming":
                theta.uniform_(-bound, bound)
            tensors["toplora_theta"] = theta
            if config.gate.norm != "none":
                tensors["toplora_gain"] = torch.ones(r)
        return tensors

    def low_rank(self, adapter_name: str) -> LowRank:
        """A, B, s and the gate."""
        settings = self.configs[adapter_name].gate
        gate = None
        if settings.enabled:
            gate = Gate(
                self.toplora_theta[adapter_name],
                self.toplora_gain.get(adapter_name),
                partial(
                    gate_of,
                    activation=settings.activation,
                    norm=settings.norm,
                    epsilon=settings.epsilon,
                ),
                settings.paper_epsilon,
            )
        A, B = self.toplora_A[adapter_name], self.toplora_B[adapter_name]
        return LowRank(A, B, self.scaling[adapter_name], gate)

    def can_merge(self, adapter_name: str) -> bool:
        """Only without the gate, when it is a LoRA."""
        return not self.configs[adapter_name].gate.enabled


class TopLoraModel(AdapterModel):
    """The tuner model of TopLoRA."""

    prefix = "toplora_"
    tuner_layer_cls = TopLoraLinear


def peft_config(settings: Mapping[str, Any]) -> TopLoraConfig:
    """The PEFT config for the keys of ``conf/adapter/toplora.yaml``.

    Raises:
        TypeError, ValueError: A bad value; the message begins with its key.
    """
    check_keys(settings, TopLoraConfig.setting_names())
    return TopLoraConfig(**settings)


register_method("toplora", TopLoraConfig, TopLoraModel)
