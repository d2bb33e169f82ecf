"""What every adapter of this package shares, and all that touches PEFT's private interface.

A new adapter is one module that defines three classes and calls :func:`register_method`:

* ``XConfig(LowRankConfig)``, a dataclass with its own settings and ``method = "x"``. A method
  without rank and alpha derives from ``AdapterConfig`` and says itself what ``scaling_for`` is.
* ``XLinear(AdapterLinear)`` with the maths. It names its tensors in ``adapter_layer_names``, each
  name beginning with the method's prefix (``x_``), draws them in ``initial_tensors``, and says in
  ``update`` what is added to the frozen layer's output. If the update is ``x @ (B A).T`` for fixed
  thin matrices it also defines ``lora_factors`` (if it is ``x @ D.T`` for a fixed ``D`` that has no
  such factors, ``get_delta_weight``); otherwise it says why not in ``merge_refusal``.
* ``XModel(AdapterModel)`` with ``prefix = "x_"`` and ``tuner_layer_cls = XLinear``. Tensors shared
  by several layers live here, each in an ``nn.ParameterDict`` of its own, keyed by adapter name;
  they are made in ``plan_adapter`` and handed to the layers in ``equip_layer``.

and, for :mod:`toplora_train.adapters.attach`, a function ``peft_config(settings)`` that builds the
config from the keys of its YAML.

The rest is here: several adapters, switching, disabling and deleting them, mixed batches
(``adapter_names=``), merging, saving and loading, meta-device loading, quantised base layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, TypeAlias

import torch
from peft import PeftModel, PeftType
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora.variants import DoraLinearVariant
from peft.tuners.tuners_utils import (
    BaseTuner,
    BaseTunerLayer,
    _get_in_out_features,
    check_adapters_to_merge,
)
from peft.utils import register_peft_method
from peft.utils.integrations import dequantize_module_weight
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.targets import attention_projections, is_linear
from toplora_train.config.errors import UserError


class UnsupportedByAdapterError(UserError, NotImplementedError):
    """What a method cannot do, such as merging TopLoRA.

    To the command line it is the user's mistake; to those who call PEFT, a ``NotImplementedError``.
    """


# --------------------------------------------------------------------------------------------------
# Registration
# --------------------------------------------------------------------------------------------------


def add_peft_type(name: str) -> None:
    """Add a member to PEFT's closed enumeration of methods; a second time changes nothing.

    PEFT looks a checkpoint's ``peft_type`` up there. The member pickles and copies by its value, as
    the built-in ones do. CPython 3.11 to 3.13 keep the same tables of members.
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    setattr(PeftType, name, member)  # before the tables: the enumeration guards known names
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    hashable_values = getattr(PeftType, "_hashable_values_", None)  # CPython 3.12.3 and later
    if hashable_values is not None:
        hashable_values.append(name)


def register_method(
    name: str, config_cls: type[AdapterConfig], model_cls: type[AdapterModel]
) -> None:
    """Make a method known to PEFT under ``name.upper()``; a second time changes nothing.

    Args:
        name: The method in lower case; its tensors' names begin with ``name + "_"``.
        config_cls: The method's config.
        model_cls: The method's tuner model.
    """
    add_peft_type(name.upper())
    if PeftType[name.upper()] not in PEFT_TYPE_TO_TUNER_MAPPING:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)


def adapter_prefixes(model: PeftModel) -> tuple[str, ...]:
    """How the names of the model's adapter tensors begin, such as ``lora_``."""
    types = {config.peft_type for config in model.peft_config.values()}
    return tuple(PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] for peft_type in sorted(types))


# --------------------------------------------------------------------------------------------------
# PEFT's DoRA
# --------------------------------------------------------------------------------------------------

DoraVariant: TypeAlias = DoraLinearVariant
"""PEFT's computation of DoRA in one linear layer."""


def replace_dora(model: PeftModel, make_variant: Callable[[], DoraVariant]) -> None:
    """Have DoRA computed by another variant in every layer; what is trained and saved is PEFT's.

    Raises:
        ValueError: A layer is none that :class:`DoraVariant` computes, such as an embedding.
    """
    for name, module in model.named_modules():
        for adapter_name, variant in getattr(module, "lora_variant", {}).items():
            if type(variant) is not DoraVariant:
                raise ValueError(f"target_modules matches {name}, which is not a linear layer")
            module.lora_variant[adapter_name] = make_variant()


def frozen_weight(layer: BaseTunerLayer) -> Tensor:
    """The base layer's weight ``(out_features, in_features)``, dequantised where it has to be."""
    base_layer = layer.get_base_layer()
    weight: Tensor = dequantize_module_weight(base_layer)
    return weight.T if isinstance(base_layer, Conv1D) else weight


# --------------------------------------------------------------------------------------------------
# The adapted linear layer
# --------------------------------------------------------------------------------------------------


class AdapterLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer with any number of adapters: ``y = W0 x + update(x)``.

    Shapes: ``x (..., in_features)``, ``y (..., out_features)``. The base layer may be quantised:
    only its forward is called, and its weight is touched by merging alone.
    """

    adapter_layer_names: tuple[str, ...] = ()
    other_param_names: tuple[str, ...]
    merge_refusal: ClassVar[str | None] = None
    """Why the update cannot be put into the base weight; None where it can."""

    prefix: ClassVar[str]

    # What PEFT's mixin brings along, for the type checker, which does not follow it.
    get_base_layer: Callable[[], nn.Module]
    get_base_weight: Callable[[], Tensor]
    set_base_weight: Callable[[Tensor], None]
    set_adapter: Callable[..., None]
    active_adapters: list[str]
    _cast_input_dtype: Callable[[Tensor, torch.dtype], Tensor]
    _move_adapter_to_device_of_base_layer: Callable[[str], None]

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: AdapterConfig, module_name: str
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.in_features, self.out_features = _get_in_out_features(self.get_base_layer())
        for name in self.adapter_layer_names:
            setattr(self, name, nn.ParameterDict())
        setattr(self, self._dropout_name, nn.ModuleDict())
        self.scaling: dict[str, float] = {}
        self.configs: dict[str, AdapterConfig] = {}
        # What delete_adapter has to clear besides the tensors.
        self.other_param_names = (self._dropout_name, "scaling", "configs")
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, module_name)

    @property
    def _dropout_name(self) -> str:
        # PEFT finds and deletes an adapter's modules by the method's prefix.
        return f"{self.prefix}dropout"

    def dropout(self, adapter_name: str) -> nn.Module:
        """The adapter's dropout; ``nn.Identity`` where its probability is zero."""
        module: nn.Module = getattr(self, self._dropout_name)[adapter_name]
        return module

    # -- what a method defines ---------------------------------------------------------------------

    def initial_tensors(self, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """New float32 values of the adapter's tensors, by the names in ``adapter_layer_names``.

        A name may be left out where the settings have no use for that tensor. Called on the CPU, so
        that a seed gives the same values on every device (or on the meta device, where none exist).
        """
        raise NotImplementedError

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """What the adapter adds to the output: ``(..., in_features) -> (..., out_features)``."""
        raise NotImplementedError

    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The plain LoRA with the same update: ``A (r, in_features)`` and ``B (out_features, r)``.

        Its scaling is in B.

        Raises:
            UnsupportedByAdapterError: There is none, for the reason given.
        """
        reason = self.merge_refusal or f"{type(self).__name__} defines no plain LoRA"
        raise UnsupportedByAdapterError(f"{reason} (adapter {adapter_name!r})")

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The matrix ``D (out_features, in_features)`` with ``update(x) = x @ D.T``, dropout off.

        Raises:
            UnsupportedByAdapterError: There is no such matrix, for the reason given.
        """
        A, B = self.lora_factors(adapter_name)
        return B @ A

    def add_update(self, result: Tensor, x: Tensor, adapter_name: str) -> Tensor:
        """``result + update(x)``: the place for a method that fuses the two."""
        return result + self.update(x, adapter_name)

    # -- what they share ---------------------------------------------------------------------------

    def refer_to(self, shared: Mapping[str, nn.ParameterDict], adapter_name: str) -> None:
        """Use tensors that live on the tuner model, by the names they have there.

        The layer holds plain references to the dictionaries, so that the tensors are counted, saved
        and moved once, and a copy of the whole model refers to its own copies. PEFT's switching and
        deleting of adapters reaches them through ``adapter_layer_names``.
        """
        for name, tensors in shared.items():
            object.__setattr__(self, name, tensors)
        self.adapter_layer_names = tuple(dict.fromkeys([*self.adapter_layer_names, *shared]))
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def update_layer(self, adapter_name: str, config: AdapterConfig, module_name: str) -> None:
        """Add an adapter to this layer."""
        self.configs[adapter_name] = config
        self.scaling[adapter_name] = config.scaling_for(module_name)
        getattr(self, self._dropout_name)[adapter_name] = (
            nn.Dropout(config.dropout) if config.dropout > 0 else nn.Identity()
        )
        for name, tensor in self._drawn(config, module_name).items():
            getattr(self, name)[adapter_name] = nn.Parameter(tensor)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _drawn(self, config: AdapterConfig, module_name: str) -> Mapping[str, Tensor]:
        weight = getattr(self.get_base_layer(), "weight", None)
        on_meta = isinstance(weight, Tensor) and weight.is_meta
        with torch.device("meta" if on_meta else "cpu"), torch.no_grad():
            return self.initial_tensors(config, module_name)

    def can_merge(self, adapter_name: str) -> bool:
        """Whether a fixed matrix holds the adapter's update; some settings may decide otherwise."""
        del adapter_name
        return self.merge_refusal is None

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT may turn it into a plain LoRA (it then asks for the delta weight)."""
        return self.can_merge(adapter_name)

    def forward(
        self, x: Tensor, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Tensor:
        """The base layer's output plus the active adapters' updates.

        Args:
            x: ``(..., in_features)``.
            *args: Passed to the base layer.
            adapter_names: One adapter (or ``"__base__"``) per row of ``x``, for inference with
                several adapters in one batch.
            **kwargs: Passed to the base layer.

        Returns:
            ``(..., out_features)`` in the base output's dtype.
        """
        if adapter_names is not None:
            return self._mixed_batch_forward(x, *args, adapter_names=adapter_names, **kwargs)
        if self.disable_adapters and self.merged:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        dtype = result.dtype
        for adapter_name in self.active_adapters:
            if adapter_name in self.scaling:
                result = self.add_update(result, self._input_of(adapter_name, x), adapter_name)
        return result.to(dtype)

    def _input_of(self, adapter_name: str, x: Tensor) -> Tensor:
        """``x`` in the dtype of the adapter's tensors; autocast converts by itself."""
        if torch.is_autocast_enabled(x.device.type):
            return x
        for name in self.adapter_layer_names:
            tensors = getattr(self, name)
            if adapter_name in tensors:
                return self._cast_input_dtype(x, tensors[adapter_name].dtype)
        return x

    def _mixed_batch_forward(
        self, x: Tensor, *args: Any, adapter_names: list[str], **kwargs: Any
    ) -> Tensor:
        if self.merged:
            raise ValueError(
                "adapter_names cannot be used while adapters are merged; unmerge first"
            )
        if len(adapter_names) != len(x):
            raise ValueError(
                f"adapter_names must name one adapter per row, but there are {len(adapter_names)} "
                f"names for {len(x)} rows"
            )
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        for adapter_name in dict.fromkeys(adapter_names):
            if adapter_name not in self.scaling:  # "__base__", or an adapter of other layers
                continue
            rows = [row for row, name in enumerate(adapter_names) if name == adapter_name]
            index = torch.tensor(rows, device=x.device)
            update = self.update(self._input_of(adapter_name, x[index]), adapter_name)
            result = result.index_add(0, index, update.to(result.dtype))
        return result

    # -- merging -----------------------------------------------------------------------------------

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the update into the base weight: ``W0 + D``.

        Args:
            safe_merge: Refuse a merged weight that is not finite, before anything is changed.
            adapter_names: The adapters to merge; None means the active ones.

        Raises:
            UnsupportedByAdapterError: The method cannot merge, or the base weight is quantised.
        """
        chosen = check_adapters_to_merge(self, adapter_names)
        self._check_mergeable(chosen)
        for adapter_name in chosen:
            if adapter_name not in self.scaling:
                continue
            merged = self.get_base_weight() + self._oriented_delta(adapter_name)
            if safe_merge and not torch.isfinite(merged).all():
                raise ValueError(f"adapter {adapter_name!r} would give a weight that is not finite")
            self.set_base_weight(merged)
            self.merged_adapters.append(adapter_name)

    def unmerge(self) -> None:
        """Take all merged updates out of the base weight again (exact to its precision)."""
        while self.merged_adapters:
            delta = self._oriented_delta(self.merged_adapters[-1])
            self.set_base_weight(self.get_base_weight() - delta)
            self.merged_adapters.pop()

    def _oriented_delta(self, adapter_name: str) -> Tensor:
        delta = self.get_delta_weight(adapter_name).detach().to(self.get_base_weight().dtype)
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def _check_mergeable(self, adapter_names: Sequence[str]) -> None:
        if not all(self.can_merge(name) for name in adapter_names if name in self.scaling):
            raise UnsupportedByAdapterError(str(self.merge_refusal))
        weight = getattr(self.get_base_layer(), "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise UnsupportedByAdapterError(
                "an adapter is not merged into a quantised layer, the result would be rounded; "
                "load the base model in 16 or 32 bits and merge there"
            )

    def __repr__(self) -> str:
        return self.prefix + super().__repr__()


# --------------------------------------------------------------------------------------------------
# The tuner model
# --------------------------------------------------------------------------------------------------


class AdapterModel(BaseTuner):
    """Finds the target modules, wraps each in the method's layer and switches the adapters."""

    tuner_layer_cls: type[AdapterLinear]
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # found on the model instead
    uses_shared_state = False  # whether plan_adapter makes tensors here

    # -- what a method with shared tensors defines -------------------------------------------------

    def plan_adapter(
        self, adapter_name: str, config: Any, targets: Mapping[str, tuple[int, int]]
    ) -> None:
        """Make what the layers of a new adapter share; called before the first of them is made.

        Args:
            adapter_name: The new adapter.
            config: Its config.
            targets: ``(in_features, out_features)`` of every module to adapt, by dotted name.
        """

    def equip_layer(self, layer: Any, adapter_name: str, module_name: str) -> None:
        """Hand a layer what it shares; called when the adapter has been added to it."""

    # -- what they share ---------------------------------------------------------------------------

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As PEFT does. The shared tensors of other adapters stay as trainable as they were."""
        self._is_planned = False
        before = [(tensor, tensor.requires_grad) for tensor in self._shared_tensors()]
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        for tensor, trainable in before:
            tensor.requires_grad_(trainable)

    def _shared_dicts(self) -> list[nn.ParameterDict]:
        return [child for child in self.children() if isinstance(child, nn.ParameterDict)]

    def _shared_tensors(self) -> list[nn.Parameter]:
        return [tensor for tensors in self._shared_dicts() for tensor in tensors.values()]

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)  # visits layers only
        for tensors in self._shared_dicts():
            half = adapter_name in tensors and tensors[adapter_name].dtype.itemsize < 4
            if autocast_adapter_dtype and half:
                tensors[adapter_name].data = tensors[adapter_name].data.float()

    def _targets(self, config: AdapterConfig) -> dict[str, tuple[int, int]]:
        """The linear modules that PEFT will adapt and their ``(in_features, out_features)``."""
        inside: tuple[str, ...] = ()
        found = {}
        for name, module in self.model.named_modules():
            if name.startswith(inside):
                continue
            if isinstance(module, BaseTunerLayer):  # of another adapter; its parts are no targets
                inside = (*inside, f"{name}.")
            base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            if is_linear(base) and self._check_target_module_exists(config, name):
                found[name] = _get_in_out_features(base)
        return found

    def _prepare_adapter_config(
        self, peft_config: AdapterConfig, model_config: Mapping[str, Any]
    ) -> AdapterConfig:
        del model_config  # the model itself says more than its type
        if peft_config.target_modules is None:
            peft_config.target_modules = attention_projections(self.model)
        return peft_config

    def _create_and_replace(
        self,
        peft_config: AdapterConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        del (
            parameter_name
        )  # no method here adapts bare parameters; the configs have no such setting
        if not self._is_planned:
            self.plan_adapter(adapter_name, peft_config, self._targets(peft_config))
            self._is_planned = True
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, peft_config, current_key)
            self.equip_layer(target, adapter_name, current_key)
            return
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not is_linear(base):
            raise ValueError(
                f"target_modules matches {current_key}, a {type(base).__name__}; only linear "
                "layers can be adapted"
            )
        layer = self.tuner_layer_cls(target, adapter_name, peft_config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)  # an adapter added later is not trained until it is set
        self.equip_layer(layer, adapter_name, current_key)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for layer in self.model.modules():  # before the first of them is changed
            if isinstance(layer, self.tuner_layer_cls):
                layer._check_mergeable(layer.active_adapters)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: a weighted sum of the tensors is not the weighted sum of the updates."""
        del args, kwargs
        raise UnsupportedByAdapterError(
            f"{self.tuner_layer_cls.prefix.rstrip('_')} adapters cannot be combined into one by "
            "weights; activate several with base_model.set_adapter([...]) to add their updates"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Hand ``adapter_names`` of a model call to every layer, for as long as the call lasts."""
        del args
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names is for inference; call model.eval() first")
        self._check_adapters_exist(adapter_names)
        beams = kwargs.get("num_beams") or 1
        # Beam search repeats each row, but only after the encoder (where there is one) has run.
        repeated = [name for name in adapter_names for _ in range(beams)]
        in_encoder = self._encoder_module_ids()
        handles = [
            module.register_forward_pre_hook(
                partial(
                    _pass_adapter_names,
                    adapter_names=list(adapter_names) if id(module) in in_encoder else repeated,
                ),
                with_kwargs=True,
            )
            for module in self.modules()
            if isinstance(module, self.tuner_layer_cls | AuxiliaryTrainingWrapper)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check_adapters_exist(self, adapter_names: Sequence[str]) -> None:
        unknown = sorted(set(adapter_names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ValueError(
                f"adapter_names holds {', '.join(unknown)}; the model has "
                f"{', '.join(self.peft_config)} (and __base__ for none)"
            )

    def _encoder_module_ids(self) -> set[int]:
        if not getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return set()
        return {id(module) for module in self.model.get_encoder().modules()}


def _pass_adapter_names(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], adapter_names: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    del module
    return args, {**kwargs, "adapter_names": adapter_names}
