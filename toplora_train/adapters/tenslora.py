"""TensLoRA: the updates of all query, key and value projections as slices of factorised tensors.

Paper: "TensLoRA: Tensor Alternatives for Low-Rank Adaptation" (arXiv 2509.19391, ICASSP 2026).

    y = W0 x + s M^T drop(x),        M = T[..., p, l] for projection p of layer l

Shapes: W0 (d_out, d_in) frozen; x (..., d_in); T a tensor of three to five modes, the first of them
the input (:mod:`~toplora_train.adapters.tenslora_constructions` lists the seven
constructions), in Tucker or CP form with a small rank in each mode
(:mod:`~toplora_train.adapters.tenslora_contraction`); M (d_in, d_out) its slice, outputs unfolded.
s = ``scaling``, a plain factor, not divided by a rank.

Start: the core (Tucker) or the input factor (CP) zero, so that the update is exactly zero; the
other factors orthogonal (default), Kaiming-uniform or normal, drawn independently per tensor.

T is never materialised: contracting the small modes into the core leaves two thin matrices of
rank <= r_0. So the update merges, and is exactly a plain LoRA (``lora_factors``).

Attention heads: coordinate j (of D) of head h is output h D + j, as in transformers' models; in the
authors' code it is j H + h with H heads (``head_layout: reference``). With grouped-query attention
the slices of key and value have as many heads as the query's and are averaged over each group
(``gqa: group``); the authors' code averages contiguous parts of the output (``gqa: reference``).
Both average the thin output factor.

Parameters: with Tucker sum_i r_i dim_i + prod_i r_i per tensor, with CP r sum_i dim_i.
Cost: LoRA's of rank r_0, plus contracting the core, independent of the number of tokens.
Merges: each module's update is a fixed matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from toplora_train.adapters.autocast import without_autocast
from toplora_train.adapters.base import AdapterLinear, AdapterModel, register_method
from toplora_train.adapters.checks import (
    check_choice,
    check_keys,
    check_positive_integer,
    check_positive_number,
)
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.low_rank import LowRank
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
        construction: The tensors' modes; one of
            :data:`~toplora_train.adapters.tenslora_constructions.CONSTRUCTIONS`.
        factorization: ``tucker`` or ``cp``.
        r: The rank of every mode. It may exceed the size of a small mode, as in the paper.
        ranks: A rank for each mode instead (Tucker only), in the construction's order.
        scaling: Factor of the update.
        init: Initialisation of the non-zero factors: ``orthogonal``, ``kaiming``, ``normal``.
        head_layout: ``model`` for the model's own heads, ``reference`` for the authors' unfolding.
        gqa: ``group`` or ``reference``, see the module's docstring.
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
            raise TypeError(f"ranks must be a list with a rank per mode, or null, not {ranks!r}")
        names = modes(self.construction)
        if len(ranks) != len(names):
            raise ValueError(
                f"ranks must have {len(names)} entries, for the modes {', '.join(names)} of "
                f"construction={self.construction}, not {len(ranks)}"
            )
        for name, rank in zip(names, ranks, strict=True):
            check_positive_integer(f"ranks of mode {name}", rank)
        self.ranks = list(ranks)

    def mode_ranks(self) -> list[int]:
        """The rank of every mode."""
        return [self.r] * len(modes(self.construction)) if self.ranks is None else self.ranks

    def scaling_for(self, module_name: str) -> float:
        """The scaling, the same in every module."""
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
        """Empty: the tensors belong to the tuner model."""
        del config, module_name
        return {}

    def low_rank(self, adapter_name: str) -> LowRank:
        """``A (r_0, d_in)``, ``B (d_out, r_0)`` and s of the plain LoRA with the same update.

        In float32 or wider, even under autocast: they are small, and B multiplies many factors.
        """
        slot, config = self.tenslora_slots[adapter_name], self.configs[adapter_name]
        tensors = {
            part: getattr(self, name)[adapter_name]
            for part, name in tensor_names(slot, config).items()
        }
        factors = [tensors[mode] for mode in modes(config.construction)]
        dtype = torch.promote_types(factors[0].dtype, torch.float32)
        core = tensors["core"].to(dtype) if "core" in tensors else None
        with without_autocast(factors[0]):
            A, B = thin_factors(
                core,
                [factor.to(dtype) for factor in factors],
                slot.rows,
                head_layout=config.head_layout,
            )
            B = average_shared_heads(
                B, repeats=slot.repeats, head_size=slot.head_size, gqa=config.gqa
            )
            return LowRank(A, B, self.scaling[adapter_name])


def tensor_names(slot: Slot, config: TensLoraConfig) -> dict[str, str]:
    """The tuner model's attributes for a tensor's core (Tucker) and factors, by part."""
    parts = [*(["core"] if config.factorization == "tucker" else []), *modes(config.construction)]
    end = f"_{slot.tensor}" if slot.tensor else ""
    return {part: f"tenslora_{part}{end}" for part in parts}


class TensLoraModel(AdapterModel):
    """The tuner model of TensLoRA, which owns the tensors that the layers refer to.

    In a file they are ``base_model.tenslora_PART``, where PART is ``core`` or a mode, followed by
    the tensor's label if there are several: ``base_model.tenslora_input_q_proj_3``.
    """

    prefix = "tenslora_"
    tuner_layer_cls = TensLoraLinear
    uses_shared_state = True

    def plan_adapter(
        self, adapter_name: str, config: TensLoraConfig, targets: Mapping[str, tuple[int, int]]
    ) -> None:
        """Draw the adapter's tensors, in the order of their modules."""
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
        """Give a layer its slot and a reference to its tensor."""
        slot = self._slots[module_name]
        layer.tenslora_slots[adapter_name] = slot
        names = tensor_names(slot, layer.configs[adapter_name]).values()
        layer.refer_to({name: getattr(self, name) for name in names}, adapter_name)


def attention_heads(model: nn.Module) -> Heads | None:
    """The query heads from the model's config; None if it has none."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):  # a multimodal model's language model
        config = config.get_text_config()
    number = getattr(config, "num_attention_heads", None)
    if not isinstance(number, int) or number < 1:
        return None
    return Heads(number, getattr(config, "head_dim", None) or config.hidden_size // number)


def check_ranks_fit(slot: Slot, config: TensLoraConfig, module_name: str) -> None:
    """Refuse ranks that exceed a tensor's modes.

    A mode's own rank must not exceed its size. The common rank r may exceed that of small modes (as
    in the published counts at r = 8), but not the input's, which limits the update's rank.

    Raises:
        ValueError: Starts with the key.
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
    """The mode sizes of each of the model's tensors; None for a CP factorisation."""
    layers = [layer for layer in model.modules() if isinstance(layer, TensLoraLinear)]
    if any(config.factorization == "cp" for layer in layers for config in layer.configs.values()):
        return None
    slots_in_use = [slot for layer in layers for slot in layer.tenslora_slots.values()]
    return list({slot.tensor: slot.sizes for slot in slots_in_use}.values())


def peft_config(settings: Mapping[str, Any]) -> TensLoraConfig:
    """The PEFT config for the keys of ``conf/adapter/tenslora.yaml``.

    Raises:
        TypeError, ValueError: An invalid value; the message starts with its key.
    """
    check_keys(settings, TensLoraConfig.setting_names())
    return TensLoraConfig(**settings)


register_method("tenslora", TensLoraConfig, TensLoraModel)
