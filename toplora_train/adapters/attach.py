"""Find an adapter by its name and attach it to a model.

An adapter is a module of this package, or of the user's own (:mod:`toplora_train.config.plugins`),
with a function ``peft_config(settings)``; modules are found by name, not listed. Optional:
``refine(model, settings)``, called after attaching;
``start_from_data(model, settings, batches)``, called with training rows; ``TARGETS_BY_PEFT``, if
PEFT chooses the default target modules; and ``tucker_tensors(model)``, the mode sizes of tensors
whose modes can have ranks of their own, and ``rank_step(settings)``, of which every rank is a
multiple, for the budget.
"""

from __future__ import annotations

import copy
import importlib
import pkgutil
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import peft
import torch
from peft import PEFT_TYPE_TO_TUNER_MAPPING, PeftConfig, PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters._peft.lora import FusedLora
from toplora_train.adapters._peft.lora import use_kernel as use_lora_kernel
from toplora_train.adapters._peft.sharded import attaching
from toplora_train.adapters.base import AdapterLinear, adapter_prefixes
from toplora_train.adapters.budget import Count, Fit, fit_budget
from toplora_train.adapters.describe import count_adapter_parameters
from toplora_train.adapters.targets import (
    attention_projections,
    check_layers_exist,
    check_targets_exist,
    plain_names,
)
from toplora_train.config.errors import UserError
from toplora_train.config.plugins import plugin
from toplora_train.models.embedding import resized_modules
from toplora_train.models.head import HEAD_ARCHITECTURES, head_modules
from toplora_train.models.quantized import keep_trainable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

KERNELS = ("fused", "peft")

NOT_THE_METHODS = ("name", "dtype", "kernel", "budget", "start_from")
"""Keys of an adapter's config group that are not the method's own settings."""

TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
}
"""Suffixes of transformers' class names -> PEFT's ``task_type``."""


def methods_own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own settings, with single module names as lists."""
    own = {key: value for key, value in settings.items() if key not in NOT_THE_METHODS}
    if isinstance(own.get("settings"), Mapping):  # of adapter=peft
        own["settings"] = plain_names(own["settings"])
    return plain_names(own)


def adapter_names() -> list[str]:
    """The names of all adapters."""
    return [name for name in _module_names() if hasattr(_module(name), "peft_config")]


def adapter_module(name: str) -> ModuleType:
    """The module of an adapter.

    Raises:
        UserError: There is no such adapter.
    """
    own = plugin("adapter", name)
    if own is not None:
        if not hasattr(own, "peft_config"):
            raise UserError(f"{own.__file__}: an adapter must define peft_config(settings)")
        return own
    if name not in _module_names() or not hasattr(_module(name), "peft_config"):
        raise UserError(
            f"adapter={name}: there is no such adapter; known: {', '.join(adapter_names())}"
        )
    return _module(name)


def _module_names() -> list[str]:
    package = importlib.import_module("toplora_train.adapters")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"toplora_train.adapters.{name}")


def attach_adapter(model: nn.Module, settings: Mapping[str, Any], *, seed: int) -> PeftModel:
    """Freeze the model and attach a new adapter.

    The adapter's tensors are drawn on the CPU from ``seed`` alone, whatever the device and the
    global RNG state, which is preserved. For a model on the meta device the adapter is on it too,
    which is enough to count parameters.

    Args:
        model: The base model; it is changed in place.
        settings: The adapter's config group: ``name``, ``dtype`` and its own keys. A ``budget``
            determines the rank (:func:`fit_to_budget`).
        seed: Seed of the adapter's initialisation.

    Returns:
        The model with the adapter, named ``default``, active and trainable.

    Raises:
        UserError: A setting is invalid, or does not fit this model.
    """
    if settings.get("budget") is not None:
        settings = fit_to_budget(model, settings).settings
    name, dtype = str(settings["name"]), settings.get("dtype", "float32")
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"adapter.dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    own = methods_own(settings)
    module = adapter_module(name)
    keep_trainable(model)
    with _errors_named(name, own):
        config = module.peft_config(own)
        _validate_method(config, module)
        if config.target_modules is None and not getattr(module, "TARGETS_BY_PEFT", False):
            config.target_modules = attention_projections(model)
        _fit_to_model(config, model)
        resized = bool(resized_modules(model))
        with torch.random.fork_rng(devices=[]), quiet_peft(ties=resized), attaching(model):
            torch.default_generator.manual_seed(seed)
            attached = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        if resized:
            tie_trained_embeddings(attached)
        _check_patterns_used(config, attached.base_model.targeted_module_names)
        if hasattr(module, "refine"):
            module.refine(attached, own)
    set_adapter_dtype(attached, dtype)
    use_kernel(attached, kernel_of(settings))
    return attached


def _validate_method(config: object, module: ModuleType) -> None:
    """Check what a module of the user's own returned."""
    if not isinstance(config, PeftConfig):
        raise UserError(
            f"{module.__file__}: peft_config must return a PeftConfig, not {type(config).__name__}"
        )
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind not in PEFT_TYPE_TO_TUNER_MAPPING:
        raise UserError(
            f"{module.__file__}: PEFT knows no method {kind}; call register_method with its config "
            "and its model"
        )


def kernel_of(settings: Mapping[str, Any]) -> str:
    """The kernel of an adapter's config group; PEFT's where the method, or an old run, has none."""
    return str(settings.get("kernel", "peft"))


def use_kernel(model: nn.Module, kernel: str) -> None:
    """Choose how low-rank updates are computed; the parameters and files are the same.

    Args:
        model: A model with adapters.
        kernel: ``fused``: with the frozen layer in one function, in its dtype
            (:mod:`toplora_train.adapters.fused`); ``peft``: composed of PyTorch's operations, in
            the adapter's dtype, as PEFT does.

    Raises:
        UserError: Another value.
    """
    if kernel not in KERNELS:
        raise UserError(f"adapter.kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    use_lora_kernel(model, kernel)
    for module in model.modules():
        if isinstance(module, AdapterLinear):
            module.kernel = kernel


def kernel_sentence(model: nn.Module, *, compiled: bool) -> str | None:
    """How the adapted layers are computed; None without layers that have a choice.

    It depends on autocast, so call it in that of training.

    Args:
        model: A model with adapters.
        compiled: Whether the layers will be compiled, which composes the update for the compiler.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, AdapterLinear) or hasattr(module, "lora_variant")  # PEFT's LoRA
    ]
    if not layers:
        return None
    weight = next(tensor for tensor in model.parameters() if tensor.is_floating_point())
    x = torch.empty(0, dtype=weight.dtype, device=weight.device)
    fused = sum(
        (isinstance(layer, FusedLora) and layer.fuses("default", x, training=True))
        or (isinstance(layer, AdapterLinear) and layer.fuses("default", x))
        for layer in layers
    )
    if compiled or not fused:
        return f"adapter: {len(layers)} layers, composed of PyTorch's operations"
    return f"adapter: {fused} of {len(layers)} layers fused with their frozen layers"


def start_from_data(
    model: PeftModel, settings: Mapping[str, Any], batches: Sequence[Mapping[str, torch.Tensor]]
) -> None:
    """Initialise an adapter from training rows, if its settings say so; else do nothing.

    Args:
        model: What :func:`attach_adapter` returned for the same ``settings``.
        settings: The adapter's config group.
        batches: Batches of training rows, the same on every process.

    Raises:
        UserError: These rows do not suffice.
    """
    name = str(settings["name"])
    module = adapter_module(name)
    if hasattr(module, "start_from_data"):
        own = methods_own(settings)
        with _errors_named(name, own):
            module.start_from_data(model, own, batches)


@contextmanager
def _errors_named(name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn errors of the configs and of PEFT into one line that names the setting or adapter."""
    try:
        yield
    except (TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        key = re.split(r"[ .]", message, maxsplit=1)[0]
        names_a_setting = key in settings or "is not a setting" in message
        prefix = "adapter." if names_a_setting else f"adapter={name}: "
        inner = settings.get("settings")  # of adapter=peft
        if isinstance(inner, Mapping) and key in inner:
            prefix = "adapter.settings."
        raise UserError(prefix + message) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # of torch's allocator for the CPU
            raise
        raise UserError(
            f"adapter={name}: its tensors do not fit in memory; lower adapter.r "
            f"(now {settings.get('r')})"
        ) from error


def _fit_to_model(config: PeftConfig, model: nn.Module) -> None:
    """Set what depends on the model, and refuse module names that match nothing in it."""
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        check_targets_exist(key, getattr(config, key, None), model)
    check_layers_exist(getattr(config, "layers_to_transform", None), model)
    config.task_type = next(
        (task for end, task in TASK_TYPES.items() if type(model).__name__.endswith(end)), None
    )
    # PEFT adds modules called classifier or score; a head can have others (DeBERTa's pooler).
    head = head_modules(model) if type(model).__name__.endswith(HEAD_ARCHITECTURES) else []
    resized = resized_modules(model)
    if hasattr(config, "modules_to_save"):
        if head or resized:
            config.modules_to_save = sorted({*(config.modules_to_save or ()), *head, *resized})
    elif resized:
        raise ValueError(
            "this method has no modules_to_save, so it cannot train the embedding that "
            "model.resize_embeddings adds rows to; choose another adapter"
        )
    if hasattr(config, "fan_in_fan_out"):  # whether weights are transposed, for PEFT's LoRA
        config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())


def _check_patterns_used(config: PeftConfig, module_names: Sequence[str]) -> None:
    """Refuse a rank or alpha pattern that matches no adapted module."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in module_names):
                raise ValueError(f"{key} names {pattern!r}, which matches no adapted module")


@contextmanager
def quiet_peft(*, ties: bool = False) -> Iterator[None]:
    """Silence PEFT's warnings that users cannot act on, or that are errors here.

    With ``ties``, also its warning that tied embeddings are not tied: they are tied here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* did not match any targeted module")
        warnings.filterwarnings("ignore", message="You have passed exclude_modules")
        if ties:
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )
        yield


def tie_trained_embeddings(model: PeftModel) -> None:
    """Tie the trained copies of embedding and output layer where the base model ties its own.

    PEFT ties them for LoRA alone. Both are in the saved file all the same, so that PEFT reads it
    without knowing of the tie.
    """
    base: Any = model.get_base_model()
    embedding, output = base.get_input_embeddings(), base.get_output_embeddings()
    if (
        hasattr(embedding, "modules_to_save")
        and hasattr(output, "modules_to_save")
        and embedding.original_module.weight is output.original_module.weight
    ):
        for name, trained in output.modules_to_save.items():
            trained.weight = embedding.modules_to_save[name].weight


def set_adapter_dtype(model: PeftModel, dtype: str) -> None:
    """Cast the adapter's tensors to ``float32``, ``bfloat16`` or ``float16``.

    ``auto`` leaves them unchanged; a new adapter has the dtype of its base layers. Modules in
    ``modules_to_save`` keep the base model's dtype.
    """
    if dtype == "auto":
        return
    prefixes = adapter_prefixes(model)
    for name, parameter in model.named_parameters():
        if any(part.startswith(prefixes) for part in name.split(".")):
            parameter.data = parameter.data.to(DTYPES[dtype])


def parameter_counter(model: nn.Module) -> Count:
    """Return a function that counts an adapter's parameters on this model.

    It attaches the adapter to the model without weights, once for the same settings.
    ``modules_to_save`` and biases of the base model are not counted.
    """
    empty, known = without_weights(model), dict[str, int]()

    def count(settings: Mapping[str, Any]) -> int:
        # Counting needs no initialisation, and PEFT refuses some initialisations at some ranks.
        structure = {key: settings[key] for key in sorted(settings) if key not in NOT_COUNTED}
        if repr(structure) not in known:
            attached = attach_adapter(without_weights(empty), structure, seed=0)
            known[repr(structure)] = count_adapter_parameters(attached)
        return known[repr(structure)]

    return count


NOT_COUNTED = ("budget", "init")


def fit_to_budget(model: nn.Module, settings: Mapping[str, Any], count: Count | None = None) -> Fit:
    """The settings whose parameter count on this model is nearest to ``settings["budget"]``.

    Args:
        model: The base model; weights are not needed, and it is not changed.
        settings: The adapter's settings.
        count: The model's :func:`parameter_counter`, for several fits on one model.

    Raises:
        UserError: The budget is invalid or out of reach, or another setting is invalid.
    """
    name, empty = str(settings["name"]), without_weights(model)
    of_tensors = getattr(adapter_module(name), "tucker_tensors", None)
    with _errors_named(name, settings):
        return fit_budget(
            settings,
            count=count or parameter_counter(model),
            step=getattr(adapter_module(name), "rank_step", lambda _: 1)(settings),
            base_parameters=sum(parameter.numel() for parameter in empty.parameters()),
            tensors=of_tensors and of_tensors(_attached_without_weights(empty, settings)),
        )


def _attached_without_weights(model: nn.Module, settings: Mapping[str, Any]) -> PeftModel:
    structure = {key: value for key, value in settings.items() if key not in NOT_COUNTED}
    return attach_adapter(without_weights(model), structure, seed=0)


def without_weights(model: nn.Module) -> nn.Module:
    """The same architecture on the meta device; the model itself is not changed."""
    config = getattr(model, "config", None)
    if config is None or all(parameter.is_meta for parameter in model.parameters()):
        return copy.deepcopy(model).to("meta")
    with torch.device("meta"):
        empty: nn.Module = type(model)(config)
    return empty
