"""The tuner model: finds target modules, wraps them in the method's layer, switches adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _get_in_out_features
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from toplora_train.adapters._peft.layer import AdapterLinear, UnsupportedByAdapterError
from toplora_train.adapters.configs import AdapterConfig
from toplora_train.adapters.targets import attention_projections, is_linear


class AdapterModel(BaseTuner):
    """A model whose target modules are wrapped in the method's layer."""

    tuner_layer_cls: type[AdapterLinear]
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}  # default targets: see below
    uses_shared_state = False  # whether plan_adapter creates tensors here

    # -- what a method with shared tensors defines -------------------------------------------------

    def plan_adapter(
        self, adapter_name: str, config: Any, targets: Mapping[str, tuple[int, int]]
    ) -> None:
        """Create what the layers of a new adapter share; called before the first layer is created.

        Args:
            adapter_name: The new adapter.
            config: Its config.
            targets: ``(in_features, out_features)`` of every module to adapt, by dotted name.
        """

    def equip_layer(self, layer: Any, adapter_name: str, module_name: str) -> None:
        """Give a layer its shared tensors; called after the adapter has been added to it."""

    # -- shared by all methods ---------------------------------------------------------------------

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """As in PEFT, but ``requires_grad`` of other adapters' shared tensors does not change."""
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

    def _target_features(self, config: AdapterConfig) -> dict[str, tuple[int, int]]:
        """The linear modules that PEFT will adapt and their ``(in_features, out_features)``."""
        inside: tuple[str, ...] = ()
        found = {}
        for name, module in self.model.named_modules():
            if name.startswith(inside):
                continue
            if isinstance(module, BaseTunerLayer):  # of another adapter: skip what is inside it
                inside = (*inside, f"{name}.")
            base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
            if is_linear(base) and self._check_target_module_exists(config, name):
                found[name] = _get_in_out_features(base)
        return found

    def _prepare_adapter_config(
        self, peft_config: AdapterConfig, model_config: Mapping[str, Any]
    ) -> AdapterConfig:
        del model_config  # the default targets come from the model itself, not from its type
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
        del parameter_name  # for methods that adapt bare parameters, which none here does
        if not self._is_planned:
            self.plan_adapter(adapter_name, peft_config, self._target_features(peft_config))
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
            layer.requires_grad_(False)  # an adapter added later is frozen until it is activated
        self.equip_layer(layer, adapter_name, current_key)
        self._replace_module(parent, target_name, layer, target)

    def merge_adapter(
        self, adapter_names: list[str] | None = None, safe_merge: bool = False
    ) -> None:
        """Merge these adapters, by default the active ones, all layers or none."""
        self._validate_mergeable(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._validate_mergeable(adapter_names)
        found: nn.Module = super()._unload_and_optionally_merge(
            merge=merge,
            progressbar=progressbar,
            safe_merge=safe_merge,
            adapter_names=adapter_names,
        )
        return found

    def _validate_mergeable(self, adapter_names: list[str] | None) -> None:
        for layer in self.model.modules():  # all of them, before the first one is changed
            if isinstance(layer, self.tuner_layer_cls):
                layer._validate_mergeable(adapter_names or layer.active_adapters)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Unsupported: a weighted sum of the tensors is not the weighted sum of the updates."""
        del args, kwargs
        raise UnsupportedByAdapterError(
            f"{self.tuner_layer_cls.prefix.rstrip('_')} adapters cannot be combined into one by "
            "weights; activate several with base_model.set_adapter([...]) to add their updates"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass ``adapter_names`` of a model call to every layer for the duration of the call."""
        del args
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        if self.training:
            raise ValueError("adapter_names is for inference; call model.eval() first")
        self._validate_adapter_names(adapter_names)
        beams = kwargs.get("num_beams") or 1
        # Beam search repeats each row, but only after the encoder (if there is one) has run.
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

    def _validate_adapter_names(self, adapter_names: Sequence[str]) -> None:
        unknown = sorted(set(adapter_names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ValueError(
                f"adapter_names contains {', '.join(unknown)}; the model has "
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
