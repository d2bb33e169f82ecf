"""The adapted linear layer: several adapters, mixed batches, merging, quantised base layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _get_in_out_features, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters.autocast import autocast_dtype
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.fused import can_fuse, fused_linear
from toplora_train.adapters.low_rank import LowRank, at_least_float32, composed_update
from toplora_train.config.errors import UserError


class UnsupportedByAdapterError(UserError, NotImplementedError):
    """An operation that a method does not support, such as merging TopLoRA.

    A ``UserError`` for the command line, a ``NotImplementedError`` for callers of PEFT.
    """


class FrozenTensors(nn.Module):
    """Tensors by adapter name that are saved with the adapter but never trained or cast."""

    def __contains__(self, adapter_name: str) -> bool:
        return adapter_name in self._buffers

    def __getitem__(self, adapter_name: str) -> Tensor:
        return self.get_buffer(adapter_name)

    def __setitem__(self, adapter_name: str, tensor: Tensor) -> None:
        self.register_buffer(adapter_name, tensor)

    def __delitem__(self, adapter_name: str) -> None:
        del self._buffers[adapter_name]


class AdapterLinear(nn.Module, BaseTunerLayer):
    """A frozen linear layer with any number of adapters: ``y = W0 x + update(x)``.

    Shapes: ``x (..., in_features)``, ``y (..., out_features)``. The base layer may be quantised:
    only its forward is called; its weight is read and written by merging alone.
    """

    adapter_layer_names: tuple[str, ...] = ()
    frozen_names: ClassVar[tuple[str, ...]] = ()
    """Tensors that belong to the adapter's file but are not trained."""
    other_param_names: tuple[str, ...]
    unmergeable_reason: ClassVar[str | None] = None
    """Why the update cannot be merged into the base weight; None if it can."""

    prefix: ClassVar[str]
    kernel: str = "fused"
    """``fused``: with the frozen layer in one function, in its dtype, where that applies; ``peft``:
    composed as PEFT composes LoRA, in the adapter's dtype."""

    # Members of PEFT's mixin, declared for the type checker, which does not follow its import.
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
        for name in self.frozen_names:
            setattr(self, name, FrozenTensors())
        setattr(self, self._dropout_name, nn.ModuleDict())
        self.scaling: dict[str, float] = {}
        self.configs: dict[str, AdapterConfig] = {}
        # Cleared by delete_adapter, besides the tensors.
        self.other_param_names = (self._dropout_name, "scaling", "configs", *self.frozen_names)
        self.merged_adapters: list[str] = []
        self._unmerged_weight: Tensor | None = None
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, module_name)

    @property
    def _dropout_name(self) -> str:
        # PEFT finds and deletes an adapter's modules by the method's prefix.
        return f"{self.prefix}dropout"

    def dropout(self, adapter_name: str) -> nn.Module:
        """The adapter's dropout; ``nn.Identity`` if its probability is zero."""
        module: nn.Module = getattr(self, self._dropout_name)[adapter_name]
        return module

    # -- what a method defines ---------------------------------------------------------------------

    def initial_tensors(self, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Float32 initial values of a new adapter's tensors, keyed by ``adapter_layer_names``.

        Those of ``frozen_names`` keep the dtype that they have here. Tensors that the settings
        make unnecessary may be left out. Called on the CPU, so that a seed gives the same values
        for every device (or on the meta device, without values).
        """
        raise NotImplementedError

    def validate_loaded(self, adapter_name: str) -> None:  # most have nothing to say
        """Refuse values that were read from a file and that this method cannot compute with.

        Raises:
            ValueError: They are such values; the message names the tensor.
        """

    def low_rank(self, adapter_name: str) -> LowRank | None:
        """The factors of a low-rank update; None for a method whose update is another."""
        del adapter_name
        return None

    def update(self, x: Tensor, adapter_name: str) -> Tensor:
        """What the adapter adds to the output: ``(..., in_features) -> (..., out_features)``.

        A method that defines no ``low_rank`` defines this.
        """
        factors = self.low_rank(adapter_name)
        if factors is None:
            raise NotImplementedError
        return composed_update(x, factors, self.dropout(adapter_name))

    def lora_factors(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """The plain LoRA with the same update: ``A (r, in_features)`` and ``B (out_features, r)``.

        B includes the scaling; both are at least in float32, in which products are not rounded to
        the precision of an adapter in half precision.

        Raises:
            UnsupportedByAdapterError: There is no equivalent LoRA; the message says why.
        """
        factors = self.low_rank(adapter_name)
        if factors is None or factors.gate is not None:
            reason = self.unmergeable_reason or f"{type(self).__name__} defines no plain LoRA"
            raise UnsupportedByAdapterError(f"{reason} (adapter {adapter_name!r})")
        return at_least_float32(factors.A), at_least_float32(factors.B) * factors.scaling

    def get_delta_weight(self, adapter_name: str) -> Tensor:
        """The matrix ``D (out_features, in_features)`` with ``update(x) = x @ D.T``, no dropout.

        It may depend on the base weight, which is always the unmerged one when this is called.

        Raises:
            UnsupportedByAdapterError: There is no such matrix; the message says why.
        """
        A, B = self.lora_factors(adapter_name)
        return B @ A

    # -- shared by all methods ---------------------------------------------------------------------

    def refer_to(self, shared: Mapping[str, nn.ParameterDict], adapter_name: str) -> None:
        """Use tensors that live on the tuner model, under the names they have there.

        The layer keeps plain references to the dictionaries, so the tensors are counted, saved and
        moved only once, and a copy of the whole model refers to its own copies. PEFT reaches them
        through ``adapter_layer_names`` when it switches or deletes adapters.
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
        device = next((t.device for t in self.get_base_layer().parameters()), None)
        for name, tensor in self._initialize(config, module_name).items():
            frozen = name in self.frozen_names
            value = tensor.to(device) if frozen else nn.Parameter(tensor)
            getattr(self, name)[adapter_name] = value
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _initialize(self, config: AdapterConfig, module_name: str) -> Mapping[str, Tensor]:
        weight = getattr(self.get_base_layer(), "weight", None)
        on_meta = isinstance(weight, Tensor) and weight.is_meta
        with torch.device("meta" if on_meta else "cpu"), torch.no_grad():
            return self.initial_tensors(config, module_name)

    def can_merge(self, adapter_name: str) -> bool:
        """Whether the update is a fixed matrix; override if that depends on the settings."""
        del adapter_name
        return self.unmergeable_reason is None

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Whether PEFT may convert the adapter to a plain LoRA, using ``get_delta_weight``."""
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
        if self.disable_adapters or self.merged:
            unchanged: Tensor = self.base_layer(x, *args, **kwargs)
            return unchanged
        chosen = [name for name in self.active_adapters if name in self.scaling]
        if len(chosen) == 1 and not (args or kwargs) and self.fuses(chosen[0], x):
            factors = self.low_rank(chosen[0])
            if factors is not None:
                return fused_linear(x, self.base_layer, factors, self.dropout(chosen[0]))
        result: Tensor = self.base_layer(x, *args, **kwargs)
        dtype = result.dtype
        for name in chosen:
            result = result + self.update(self._cast_input(x, name), name)
        return result.to(dtype)

    def fuses(self, adapter_name: str, x: Tensor) -> bool:
        """Whether one function computes this layer with this adapter, for inputs such as ``x``."""
        return (
            self.kernel == "fused"
            and can_fuse(x, self.base_layer, self._dtype(adapter_name))
            and type(self).low_rank is not AdapterLinear.low_rank
        )

    def _cast_input(self, x: Tensor, adapter_name: str) -> Tensor:
        """``x`` in the dtype of the adapter's tensors, unless autocast takes care of it."""
        if autocast_dtype(x) is not None:
            return x
        return self._cast_input_dtype(x, self._dtype(adapter_name))

    def _dtype(self, adapter_name: str) -> torch.dtype:
        tensors = (getattr(self, name) for name in self.adapter_layer_names)
        return next((of[adapter_name].dtype for of in tensors if adapter_name in of), torch.float32)

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
            update = self.update(self._cast_input(x[index], adapter_name), adapter_name)
            result = result.index_add(0, index, update.to(result.dtype))
        return result

    # -- merging -----------------------------------------------------------------------------------

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add the updates to the base weight: ``W0 + D1 + D2 + ...``, each ``D`` computed from W0.

        W0 is kept until :meth:`unmerge`: subtracting ``D`` again would leave rounding errors, and
        would be wrong for a ``D`` that depends on the weight.

        Args:
            safe_merge: Raise if the merged weight has NaN or infinite entries.
            adapter_names: The adapters to merge; None means the active ones.

        Raises:
            UnsupportedByAdapterError: The method cannot merge, or the base weight is quantised.
            ValueError: NaN or inf with ``safe_merge``; nothing has been merged then.
        """
        chosen = check_adapters_to_merge(self, adapter_names)
        chosen = [name for name in chosen if name in self.scaling]
        self._validate_mergeable(chosen)
        if not chosen:
            return
        current = merged = self.get_base_weight()
        original = current if self._unmerged_weight is None else self._unmerged_weight.to(current)
        self.set_base_weight(original)
        try:
            for adapter_name in chosen:
                merged = merged + self._oriented_delta(adapter_name)
                if safe_merge and not torch.isfinite(merged).all():
                    raise ValueError(
                        f"merging adapter {adapter_name!r} gives a weight with NaN or inf"
                    )
        except BaseException:  # also a signal's
            self.set_base_weight(current)
            raise
        self.set_base_weight(merged)
        self._unmerged_weight = original
        self.merged_adapters.extend(chosen)

    def unmerge(self) -> None:
        """Restore the base weight as it was before the first merge, bit by bit."""
        if self._unmerged_weight is not None:
            self.set_base_weight(self._unmerged_weight.to(self.get_base_weight()))
        self._unmerged_weight = None
        self.merged_adapters.clear()

    def _oriented_delta(self, adapter_name: str) -> Tensor:
        delta = self.get_delta_weight(adapter_name).detach().to(self.get_base_weight().dtype)
        return delta.T if isinstance(self.get_base_layer(), Conv1D) else delta

    def _validate_mergeable(self, adapter_names: Sequence[str]) -> None:
        if not all(self.can_merge(name) for name in adapter_names if name in self.scaling):
            raise UnsupportedByAdapterError(str(self.unmergeable_reason))
        weight = getattr(self.get_base_layer(), "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise UnsupportedByAdapterError(
                "an adapter cannot be merged into a quantised layer, which would round the result; "
                "load the base model in 16 or 32 bits and merge there"
            )

    def __repr__(self) -> str:
        return self.prefix + super().__repr__()
