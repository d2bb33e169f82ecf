"""TensLoRA: the updates of all query, key and value projections as slices of factorised tensors.

Paper: "TensLoRA: Tensor Alternatives for Low-Rank Adaptation" (arXiv 2509.19391, ICASSP 2026).

    y = W0 x + s M^T drop(x),        M = T[..., p, l] for projection p of layer l

Shapes: W0 (d_out, d_in) frozen; x (..., d_in); T a tensor of three to five modes, of which the
first is the input (:mod:`~toplora_train.adapters.tenslora_constructions` lists the seven
constructions), in Tucker or CP form with a small rank in each mode
(:mod:`~toplora_train.adapters.tenslora_contraction`); M (d_in, d_out) its slice, outputs unfolded.
s = ``scaling``, a plain factor: it is not divided by a rank.

Start: the core (Tucker) or the input factor (CP) zero, so that the update is exactly zero; the
other factors orthogonal (default), Kaiming-uniform or normal, every tensor drawn for itself.

T is never built: the small modes are contracted into the core first, which leaves two thin
matrices of rank <= r_0. So the update merges, and is exactly a plain LoRA (``lora_factors``).

Attention heads: head h, coordinate j of D is output h D + j, where the models have it; the
authors' code has it at j H + h of H (``head_layout: reference``). Where several query heads share
a key/value head (grouped-query attention), the key's and value's slices have as many heads as the
query's and the mean over each group is taken (``gqa: group``); the authors' code takes it over
contiguous parts of the output (``gqa: reference``). Both are means of the thin output factor.

Parameters: with Tucker sum_i r_i dim_i + prod_i r_i per tensor, with CP r sum_i dim_i.
Cost: LoRA's of rank r_0, and the contraction of the core, which does not depend on the tokens.
Merges: each module's update is a fixed matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toplora_train.adapters.base import AdapterLinear, AdapterModel, register_method
from toplora_train.adapters.checks import (
    check_choice,
    check_keys,
    check_positive_integer,
    check_positive_number,
)
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.tenslora_constructions import (
    CONSTRUCTIONS,
    Features,
    Heads,
    Slot,
    modes,
    slots,
)
from toplora_train.adapters.tenslora_contraction import (
    FACTORIZATIONS,
    GQA,
    HEAD_LAYOUTS,
    INITS,
    average_shared_heads,
    initial_factors,
    thin_factors,
)


@dataclass
class TensLoraConfig(AdapterConfig):
    """PEFT config of TensLoRA.

    Args:
        construction: Which modes a tensor has; one of
            :data:`~toplora_train.adapters.tenslora_constructions.CONSTRUCTIONS`.
        factorization: ``tucker`` or ``cp``.
        r: The rank of every mode. It may exceed the size of a small mode, as in the paper.
        ranks: A rank for each mode instead (Tucker only), in the construction's order.
        scaling: Factor of the update.
        init: The start of the factors that are not zero: ``orthogonal``, ``kaiming``, ``normal``.
        head_layout: ``model`` for the model's own heads, ``reference`` for the authors' unfolding.
        gqa: ``group`` or ``reference``, see the module's text.
    """

    method: ClassVar[str] = "tenslora"

    construction: str = "qkv_depth"
    factorization: str = "tucker"
    r: int = 8
    ranks: list[int] | None = None
    scaling: float = 1.0
    init: str = "orthogonal"
    head_layout: str = "model"
    gqa: str = "group"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("construction", self.construction, CONSTRUCTIONS)
        check_choice("factorization", self.factorization, FACTORIZATIONS)
        check_positive_integer("r", self.r)
        check_positive_number("scaling", self.scaling)
        check_choice("init", self.init, INITS)
        check_choice("head_layout", self.head_layout, HEAD_LAYOUTS)
        check_choice("gqa", self.gqa, GQA)
        if self.ranks is not None:
            self._check_ranks(self.ranks)

    def _check_ranks(self, ranks: object) -> None:
        if self.factorization == "cp":
            raise ValueError("ranks must be null with factorization=cp, whose only rank is r")
        if not isinstance(ranks, list | tuple):
            raise TypeError(f"ranks must be a list of a rank per mode, or null, not {ranks!r}")
        names = modes(self.construction)
        if len(ranks) != len(names):
            raise ValueError(
                f"ranks must hold {len(names)} ranks, for the modes {', '.join(names)} of "
                f"construction={self.construction}, not {len(ranks)}"
            )
        for name, rank in zip(names, ranks, strict=True):
            check_positive_integer(f"ranks of mode {name}", rank)
        self.ranks = list(ranks)

    def mode_ranks(self) -> list[int]:
        """The rank of every mode."""
        return [self.r] * len(modes(self.construction)) if self.ranks is None else self.ranks

    def scaling_for(self, module_name: str) -> float:
        """The factor of the update, the same in every module."""
        del module_name
        return self.scaling


class TensLoraLinear(AdapterLinear):
    """A frozen linear layer with the update ``s M^T drop(x)``, M its slice of a shared tensor."""

    prefix: ClassVar[str] = "tenslora_"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tenslora_slots: dict[str, Slot] = {}
        self.other_param_names = (*self.other_param_names, "tenslora_slots")

    def initial_tensors(self, config: TensLoraConfig, module_name: str) -> Mapping[str, Tensor]:
        """None: the tensors live on the tuner model."""
        del config, module_name
        return {}

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """``s M^T drop(x)``: ``(..., d_in) -> (..., d_out)``, through the thin factors."""
        A, B = self.lora_factors(adapter_name)
        hidden = F.linear(self.dropout(adapter_name)(x), A.to(x))
        return F.linear(hidden, B.to(hidden))

    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """``A (r_0, d_in)`` and ``s B (d_out, r_0)`` of the plain LoRA with the same update.

        In float32 or wider, under autocast too: they are small, and B is a product of many factors.
        """
        slot, config = self.tenslora_slots[adapter_name], self.configs[adapter_name]
        tensors = {
            part: getattr(self, name)[adapter_name]
            for part, name in tensor_names(slot, config).items()
        }
        factors = [tensors[mode] for mode in modes(config.construction)]
        dtype = torch.promote_types(factors[0].dtype, torch.float32)
        core = tensors["core"].to(dtype) if "core" in tensors else None
        with torch.autocast(factors[0].device.type, enabled=False):
            A, B = thin_factors(
                core,
                [factor.to(dtype) for factor in factors],
                slot.rows,
                head_layout=config.head_layout,
            )
            B = average_shared_heads(
                B, repeats=slot.repeats, head_size=slot.head_size, gqa=config.gqa
            )
            return A, B * self.scaling[adapter_name]


def tensor_names(slot: Slot, config: TensLoraConfig) -> dict[str, str]:
    """The names on the tuner model of a tensor's core (with Tucker) and factors, by part."""
    parts = [*(["core"] if config.factorization == "tucker" else []), *modes(config.construction)]
    end = f"_{slot.tensor}" if slot.tensor else ""
    return {part: f"tenslora_{part}{end}" for part in parts}


class TensLoraModel(AdapterModel):
    """The tuner model of TensLoRA; the tensors are its own, the layers refer to them.

    In a file they are ``base_model.tenslora_PART`` with PART ``core`` or a mode, and behind it what
    the tensor is for where there are several: ``base_model.tenslora_input_q_proj_3``.
    """

    prefix = "tenslora_"
    tuner_layer_cls = TensLoraLinear
    uses_shared_state = True

    def plan_adapter(
        self, adapter_name: str, config: TensLoraConfig, targets: Mapping[str, tuple[int, int]]
    ) -> None:
        """Draw the adapter's tensors, in the order of the modules that they are for."""
        features = {name: Features(*shape) for name, shape in targets.items()}
        self._slots = slots(features, config.construction, attention_heads(self.model))
        for name, slot in self._slots.items():
            check_ranks_fit(slot, config, name)
        for slot in {slot.tensor: slot for slot in self._slots.values()}.values():
            core, factors = initial_factors(
                slot.sizes,
                config.mode_ranks(),
                factorization=config.factorization,
                init=config.init,
            )
            values = factors if core is None else [core, *factors]
            names = tensor_names(slot, config).values()
            for name, value in zip(names, values, strict=True):
                if name not in self._modules:
                    setattr(self, name, nn.ParameterDict())
                getattr(self, name)[adapter_name] = nn.Parameter(value)

    def equip_layer(self, layer: TensLoraLinear, adapter_name: str, module_name: str) -> None:
        """Tell a layer its slot, and refer it to its tensor."""
        slot = self._slots[module_name]
        layer.tenslora_slots[adapter_name] = slot
        names = tensor_names(slot, layer.configs[adapter_name]).values()
        layer.refer_to({name: getattr(self, name) for name in names}, adapter_name)


def attention_heads(model: nn.Module) -> Heads | None:
    """The query heads that a model's config speaks of; None where it does not."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):  # of several models in one it is the language model
        config = config.get_text_config()
    number = getattr(config, "num_attention_heads", None)
    if not isinstance(number, int) or number < 1:
        return None
    return Heads(number, getattr(config, "head_dim", None) or config.hidden_size // number)


def check_ranks_fit(slot: Slot, config: TensLoraConfig, module_name: str) -> None:
    """Refuse ranks that a tensor cannot use.

    A rank given for a mode may not exceed its size. One rank for all may, in the small modes (the
    published counts at r = 8 have it so), but not in the input: the update's rank ends there.

    Raises:
        ValueError: Begins with the key at fault.
    """
    names = modes(config.construction)
    if config.ranks is None:
        if config.factorization == "tucker" and config.r > slot.sizes[0]:
            raise ValueError(
                f"r must be at most {slot.sizes[0]}, the inputs of {module_name}, not {config.r}"
            )
        return
    for name, rank, size in zip(names, config.ranks, slot.sizes, strict=True):
        if rank > size:
            raise ValueError(
                f"ranks must not exceed the sizes of the modes, but mode {name} has rank {rank} "
                f"and size {size} (at {module_name})"
            )


def tucker_tensors(model: nn.Module) -> list[tuple[int, ...]] | None:
    """The sizes of the modes of every tensor that the model has; None of a CP factorisation."""
    layers = [layer for layer in model.modules() if isinstance(layer, TensLoraLinear)]
    if any(config.factorization == "cp" for layer in layers for config in layer.configs.values()):
        return None
    slots_in_use = [slot for layer in layers for slot in layer.tenslora_slots.values()]
    return list({slot.tensor: slot.sizes for slot in slots_in_use}.values())


def peft_config(settings: Mapping[str, Any]) -> TensLoraConfig:
    """The PEFT config for the keys of ``conf/adapter/tenslora.yaml``.

    Raises:
        TypeError, ValueError: A bad value; the message begins with its key.
    """
    check_keys(settings, TensLoraConfig.setting_names())
    return TensLoraConfig(**settings)


register_method("tenslora", TensLoraConfig, TensLoraModel)
