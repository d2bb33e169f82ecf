"""LoRA-Flow: a gate in each layer that weights several trained adapters for each token.

Paper: "LoRA-Flow: Dynamic LoRA Fusion for Large Language Models in Generative Tasks"
(arXiv 2402.11455, ACL 2024); equation and shapes are also in its authors' repository,
thunlp/LoRAFlow.

    w(h) = softmax( W h ) + b
    y    = W0 x + sum_i w_i(h) update_i(x)

Shapes: h (..., d) is the input of the decoder layer that the module is in (before its norm),
W (k, d) and b (k) are the layer's gate, shared by its modules; w (..., k). x (..., n) is the
module's input, W0 (m, n) its frozen weight, update_i (..., m) what adapter i adds, y (..., m).

Only W and b are trained, on a few rows (200 in the paper). The k adapters and the base model are
frozen. An adapter is a LoRA, DoRA, TopLoRA, TensLoRA, GenLoRA, SBoRA or Orthogonal Projection LoRA
(:mod:`toplora_train.adapters.experts`); the adapters may differ in method, rank and target
modules. A module that an adapter does not adapt gets nothing from it.

Start: W and b are zero, so that every adapter has weight 1/k: the sum of the updates is their mean.
A factor k would start at their sum, which is k times the size that each was trained for. The start
is ours: the paper's code starts with W random and, of its two adapters, with b = (-1/2, 1/2), at
the second alone. A weight is not bounded by zero and one, as b is added after the softmax.

Parameters: k (d + 1) per layer; 0.26 million for two adapters of Llama-2 7B. Cost: that of all k
adapters, and their tensors in the adapter's file, so that it needs none of the runs; DoRA's costs
a second product with the frozen weight. Merges: no, as the weights depend on the token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from toplora_train.adapters.base import (
    AdapterLinear,
    AdapterModel,
    FrozenTensors,
    UnsupportedByAdapterError,
    register_method,
)
from toplora_train.adapters.checks import check_keys, check_positive_integer
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.experts import (
    MOST_EXPERTS,
    Expert,
    expert_folders,
    joined,
    read_experts,
)
from toplora_train.adapters.observe import observe
from toplora_train.adapters.toplora import GateSettings, gate_of

KEY = "adapter.runs"
TARGETS_BY_PEFT = True
"""The modules are those of the adapters."""


@dataclass
class FusionConfig(AdapterConfig):
    """PEFT config of a fusion.

    Args:
        ranks: The rank of each adapter, the largest of its modules.
        experts: The adapters: ``name`` (of the run), ``sha256`` (of the weights file), ``method``
            (PEFT's name of it), ``gate`` (TopLoRA's settings, or None), ``magnitude`` (whether it
            has DoRA's).
    """

    method: ClassVar[str] = "fusion"

    ranks: list[int] = field(default_factory=list)
    experts: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        # No fields, as they are not saved: the adapters to read, and what was read.
        self.folders: tuple[Path, ...] = ()
        self.read: tuple[Expert, ...] = ()
        if not (isinstance(self.ranks, list) and isinstance(self.experts, list)):
            raise TypeError("ranks and experts must be lists")
        if len(self.ranks) != len(self.experts) or len(self.ranks) > MOST_EXPERTS:
            raise ValueError(f"ranks must be as many as experts, and at most {MOST_EXPERTS}")
        for rank in self.ranks:
            check_positive_integer("ranks", rank)
        self.gates()

    def scaling_for(self, module_name: str) -> float:
        """One: each adapter's own scaling is in its factors."""
        del module_name
        return 1.0

    def gates(self) -> list[GateSettings | None]:
        """Each adapter's own gate, TopLoRA's."""
        found = []
        for expert in self.experts:
            settings = expert.get("gate") if isinstance(expert, Mapping) else 0
            if settings is not None and not isinstance(settings, Mapping):
                raise TypeError(f"experts must be mappings whose gate is one or null, not {expert}")
            found.append(None if settings is None else GateSettings(**settings))
        return found


class LayerInput:
    """The hidden state that enters a decoder layer, which the layer's modules read.

    It is kept for the backward pass, in which checkpointed activations are computed again without
    the layer's hooks; that of the last forward pass is the right one.
    """

    hidden: Tensor | None = None

    def take(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook of the layer."""
        del layer
        self.hidden = args[0] if args else kwargs["hidden_states"]

    def drop(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook of the layer: without a backward pass nothing is kept."""
        del layer, args, output
        if not torch.is_grad_enabled():
            self.hidden = None

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: a copy of the model has no activations."""
        return {}


class FusionLinear(AdapterLinear):
    """A frozen linear layer with the update ``sum_i w_i(h) update_i(x)``."""

    prefix: ClassVar[str] = "fusion_"
    frozen_names = ("fusion_A", "fusion_B", "fusion_theta", "fusion_gain", "fusion_change")
    unmergeable_reason: ClassVar[str | None] = (
        "a fusion cannot be merged: its weights depend on each token, so no fixed weight holds the "
        "update; keep it as an adapter (after `import toplora_train` PEFT loads it), or fuse by "
        "fixed weights with toplora-fuse method=cat, which merges"
    )

    fusion_A: FrozenTensors  # noqa: N815 - the capitals of LoRA
    fusion_B: FrozenTensors  # noqa: N815  # the paper's capital
    fusion_theta: FrozenTensors
    fusion_gain: FrozenTensors
    fusion_change: FrozenTensors
    fusion_W: nn.ParameterDict  # noqa: N815  # the paper's capital
    fusion_b: nn.ParameterDict
    layer_input: LayerInput

    def initial_tensors(self, config: FusionConfig, module_name: str) -> Mapping[str, Tensor]:
        """The adapters' factors side by side; zeros where a file's follow."""
        n, m = self.in_features, self.out_features
        if config.read:
            tensors = joined(config.read, module_name, n, m)
            return {f"fusion_{name}": tensor for name, tensor in tensors.items()}
        pairs = list(zip(config.ranks, config.gates(), strict=True))
        total = sum(config.ranks)
        gated = sum(r for r, gate in pairs if gate is not None)
        gains = sum(r for r, gate in pairs if gate is not None and gate.norm != "none")
        changes = sum(bool(expert.get("magnitude")) for expert in config.experts)
        sizes = {
            "fusion_A": (total, n),
            "fusion_B": (m, total),
            "fusion_theta": (n, gated),
            "fusion_gain": (gains,),
            "fusion_change": (changes, m),
        }
        return {name: torch.zeros(size) for name, size in sizes.items() if 0 not in size}

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """``sum_i w_i(h) (c_i * (W0 x) + B_i (A_i x * g_i(x)))``, ``(..., n) -> (..., m)``."""
        config = self.configs[adapter_name]
        assert isinstance(config, FusionConfig)
        weights = self.weights(x, adapter_name)
        A, B = (held[adapter_name].to(x.dtype) for held in (self.fusion_A, self.fusion_B))
        parts = list(torch.split(F.linear(x, A), config.ranks, dim=-1))
        gates = self._own_gates(x, adapter_name, config)
        for i, part in enumerate(parts):
            scaled = part * weights[..., i : i + 1]
            parts[i] = (scaled * gates[i]).to(x.dtype) if i in gates else scaled
        y = F.linear(torch.cat(parts, dim=-1), B)
        changed = [i for i, expert in enumerate(config.experts) if expert.get("magnitude")]
        if changed:
            change = self.fusion_change[adapter_name].to(x.dtype)
            y = y + F.linear(weights[..., changed], change.T) * self._without_bias(x)
        return y

    def weights(self, x: Tensor, adapter_name: str) -> Tensor:
        """The fusion weights of the tokens of ``x (..., n)``: ``(..., k)`` in its dtype."""
        h = self.layer_input.hidden
        if h is None:
            raise UnsupportedByAdapterError(
                "a fused module's update depends on what enters its decoder layer, so the module "
                "alone has none"
            )
        W, b = self.fusion_W[adapter_name], self.fusion_b[adapter_name]
        w = F.linear(h.to(W.dtype), W).softmax(dim=-1) + b
        weights: Tensor = w.reshape(*x.shape[:-1], len(b)).to(x.dtype)
        return weights

    def _own_gates(self, x: Tensor, adapter_name: str, config: FusionConfig) -> dict[int, Tensor]:
        """TopLoRA's gates, ``(..., r_i)`` in float32 or wider, by the number of the adapter."""
        gates = {i: gate for i, gate in enumerate(config.gates()) if gate is not None}
        if not gates:
            return {}
        theta = self.fusion_theta[adapter_name].to(x.dtype)
        logits = torch.split(x @ theta, [config.ranks[i] for i in gates], dim=-1)
        normed = [config.ranks[i] for i, gate in gates.items() if gate.norm != "none"]
        gains = iter(torch.split(self.fusion_gain[adapter_name], normed) if normed else ())
        return {
            i: gate_of(
                part,
                None if gate.norm == "none" else next(gains),
                activation=gate.activation,
                norm=gate.norm,
                epsilon=gate.epsilon,
            )
            for (i, gate), part in zip(gates.items(), logits, strict=True)
        }

    def _without_bias(self, x: Tensor) -> Tensor:
        """``W0 x``, ``(..., m)``."""
        base: Any = self.get_base_layer()
        exact = base.weight.is_floating_point()  # a quantised layer takes any dtype
        y: Tensor = base(x.to(base.weight.dtype) if exact else x)
        return (y if base.bias is None else y - base.bias).to(x.dtype)

    def _mixed_batch_forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        del x, args, kwargs
        raise UnsupportedByAdapterError(
            "a fusion cannot share a batch with other adapters (adapter_names=): its gate reads "
            "whole layers; call the model once for each adapter"
        )


class FusionModel(AdapterModel):
    """The tuner model of a fusion, which owns the layers' gates.

    In a file they are ``base_model.fusion_W_LAYER`` and ``base_model.fusion_b_LAYER``.
    """

    prefix = "fusion_"
    tuner_layer_cls = FusionLinear
    uses_shared_state = True

    def _prepare_adapter_config(
        self, peft_config: AdapterConfig, model_config: Mapping[str, Any]
    ) -> AdapterConfig:
        """Read the adapters, unless the config is a file's.

        Raises:
            UserError: An adapter cannot be fused, or does not fit the model.
            ValueError: The model has a head.
        """
        assert isinstance(peft_config, FusionConfig)
        if peft_config.task_type == "SEQ_CLS":
            raise ValueError("it is for models that generate text; use adapter=lora for a head")
        if peft_config.folders:
            experts = read_experts(self.model, peft_config.folders, KEY)
            peft_config.read, peft_config.folders = tuple(experts), ()
            peft_config.ranks = [expert.rank for expert in experts]
            peft_config.experts = [expert.described() for expert in experts]
            peft_config.target_modules = sorted({m for one in experts for m in one.factors})
        return super()._prepare_adapter_config(peft_config, model_config)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As in PEFT; what was read is then in the layers."""
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        config = self.peft_config[adapter_name]
        assert isinstance(config, FusionConfig)
        config.read = ()

    def plan_adapter(
        self, adapter_name: str, config: FusionConfig, targets: Mapping[str, tuple[int, int]]
    ) -> None:
        """Create the gates of the decoder layers, zero, and observe the layers' inputs."""
        inputs: dict[str, LayerInput] = self.__dict__.setdefault("layer_inputs", {})
        handles: list[Any] = self.__dict__.setdefault("layer_hooks", [])
        for name in dict.fromkeys(decoder_layer(module) for module in targets):
            for part, size in (("W", (len(config.ranks), self._width())), ("b", len(config.ranks))):
                if not hasattr(self, gate_name(part, name)):
                    setattr(self, gate_name(part, name), nn.ParameterDict())
                getattr(self, gate_name(part, name))[adapter_name] = nn.Parameter(torch.zeros(size))
            if name not in inputs:
                inputs[name] = LayerInput()
                layer = self.model.get_submodule(name)
                handles += [
                    layer.register_forward_pre_hook(inputs[name].take, with_kwargs=True),
                    layer.register_forward_hook(inputs[name].drop, always_call=True),
                ]

    def equip_layer(self, layer: FusionLinear, adapter_name: str, module_name: str) -> None:
        """Give a module the gate of its decoder layer, and the layer's input."""
        name = decoder_layer(module_name)
        layer.layer_input = self.__dict__["layer_inputs"][name]
        gate = {f"fusion_{part}": getattr(self, gate_name(part, name)) for part in ("W", "b")}
        layer.refer_to(gate, adapter_name)

    def _width(self) -> int:
        """The size d of the model's hidden states."""
        config: Any = self.model.config
        return int(config.get_text_config().hidden_size)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for handle in self.__dict__.get("layer_hooks", ()):
            handle.remove()
        return model


def fusion_weights(
    model: PeftModel, ids: Sequence[int], adapter_name: str = "default"
) -> dict[str, Tensor]:
    """The weights of a text's tokens by decoder layer, ``(tokens, k)``, in float32 on the CPU.

    Args:
        model: A model in evaluation mode; without a fusion it has none.
        ids: The text's token ids.
        adapter_name: The active adapter.
    """
    gates: dict[str, nn.Module] = {}  # one module of each layer, whose modules share the gate
    for name, module in model.base_model.model.named_modules():
        if isinstance(module, FusionLinear) and adapter_name in module.configs:
            gates.setdefault(decoder_layer(name), module)
    if not gates:
        return {}
    return observe(model, ids, gates, lambda layer, x: layer.weights(x, adapter_name))


def decoder_layer(module_name: str) -> str:
    """The decoder layer that a module is in: ``model.layers.3``.

    Raises:
        ValueError: It is in none.
    """
    found = re.match(r"(.*?\.\d+)\.", module_name)
    if found is None:
        raise ValueError(f"{module_name} is in no decoder layer, so no gate could weight it")
    return found[1]


def gate_name(part: str, layer: str) -> str:
    """The tuner model's attribute for a tensor of a layer's gate."""
    return f"fusion_{part}_{layer.replace('.', '_')}"


def peft_config(settings: Mapping[str, Any]) -> FusionConfig:
    """The PEFT config for the keys of ``conf/adapter/fusion.yaml``.

    Raises:
        UserError: The runs cannot be fused.
        TypeError: There is another key.
    """
    check_keys(settings, ["runs"])
    config = FusionConfig()
    config.folders = tuple(expert_folders(settings["runs"], KEY))
    return config


register_method("fusion", FusionConfig, FusionModel)
