"""An adapter on a model: attach it, say what it is, save it, load it again.

An adapter is a module of this package with a function ``peft_config(settings)``; it is found by
its name, there is no list of them. It may have a function ``refine(model, settings)``, which is
called when the adapter is on the model, a function ``start_from_data(model, settings, batches)``,
which is then shown training rows, and a constant ``TARGETS_BY_PEFT``, by which modules that
were not named are chosen by PEFT. Where ranks can be given to the modes of tensors,
``tucker_tensors(model)`` tells their sizes, for the budget.
"""

from __future__ import annotations

import copy
import importlib
import json
import pkgutil
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import peft
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from toplora_train.adapters.base import AdapterLinear, adapter_prefixes
from toplora_train.adapters.budget import Fit, fit_budget
from toplora_train.adapters.configs import check_schema_version
from toplora_train.adapters.lora_start import HalfFrozen
from toplora_train.adapters.peft import UNMERGEABLE
from toplora_train.adapters.targets import (
    attention_projections,
    check_layers_exist,
    check_targets_exist,
)
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.models.head import head_modules
from toplora_train.models.quantized import keep_trainable

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NOT_THE_METHODS = ("name", "dtype", "budget")
"""Keys of an adapter's group that are not for the method's own config."""

TASK_TYPES = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
}
"""Ends of transformers' class names -> the task that PEFT wraps such a model for."""


# -- finding --------------------------------------------------------------------------------------


def adapter_names() -> list[str]:
    """The adapters there are, by name."""
    return [name for name in _module_names() if hasattr(_module(name), "peft_config")]


def adapter_module(name: str) -> ModuleType:
    """The module of an adapter.

    Raises:
        UserError: There is no such adapter.
    """
    if name not in _module_names() or not hasattr(_module(name), "peft_config"):
        raise UserError(
            f"adapter={name}: there is no such adapter, but {', '.join(adapter_names())}"
        )
    return _module(name)


def _module_names() -> list[str]:
    package = importlib.import_module("toplora_train.adapters")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"toplora_train.adapters.{name}")


# -- attaching ------------------------------------------------------------------------------------


def attach_adapter(model: nn.Module, settings: Mapping[str, Any], *, seed: int) -> PeftModel:
    """Freeze the model and put a new adapter on it.

    The adapter's tensors are drawn on the CPU from ``seed`` alone: neither the global random state
    nor the device has a part in them, and the global state is left as it was. A model on the meta
    device gets its adapter there, which is enough to count parameters.

    Args:
        model: The base model; it is changed in place.
        settings: The adapter's config group: ``name``, ``dtype`` and its own keys. A ``budget``
            among them decides the rank (:func:`fit_to_budget`).
        seed: Seed of the adapter's start.

    Returns:
        The model with the adapter, named ``default``, active and trainable.

    Raises:
        UserError: A bad setting, or one that fits nothing in this model.
    """
    if settings.get("budget") is not None:
        settings = fit_to_budget(model, settings).settings
    name, dtype = str(settings["name"]), settings.get("dtype", "float32")
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"adapter.dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    own = {key: value for key, value in settings.items() if key not in NOT_THE_METHODS}
    module = adapter_module(name)
    keep_trainable(model)
    with _errors_named(name, own):
        config = module.peft_config(own)
        if config.target_modules is None and not getattr(module, "TARGETS_BY_PEFT", False):
            config.target_modules = attention_projections(model)
        _fit_to_model(config, model)
        with torch.random.fork_rng(devices=[]), _quiet_peft():
            torch.default_generator.manual_seed(seed)
            attached = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        _check_patterns_used(config, attached.base_model.targeted_module_names)
        if hasattr(module, "refine"):
            module.refine(attached, own)
    set_adapter_dtype(attached, dtype)
    return attached


def start_from_data(
    model: PeftModel, settings: Mapping[str, Any], batches: Sequence[Mapping[str, torch.Tensor]]
) -> None:
    """Let an adapter whose start depends on the training rows see some; others are left as is.

    Args:
        model: What :func:`attach_adapter` returned for the same ``settings``.
        settings: The adapter's config group.
        batches: Batches of training rows, the same in every process.

    Raises:
        UserError: The start cannot be made of these rows.
    """
    name = str(settings["name"])
    module = adapter_module(name)
    if hasattr(module, "start_from_data"):
        own = {key: value for key, value in settings.items() if key not in NOT_THE_METHODS}
        with _errors_named(name, own):
            module.start_from_data(model, own, batches)


@contextmanager
def _errors_named(name: str, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn what the configs and PEFT refuse into one line that names the setting or adapter."""
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


def _fit_to_model(config: PeftConfig, model: nn.Module) -> None:
    """Fill in what depends on the model and refuse names that match nothing in it."""
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        check_targets_exist(key, getattr(config, key, None), model)
    check_layers_exist(getattr(config, "layers_to_transform", None), model)
    config.task_type = next(
        (task for end, task in TASK_TYPES.items() if type(model).__name__.endswith(end)), None
    )
    if config.task_type == "SEQ_CLS" and hasattr(config, "modules_to_save"):
        # PEFT adds modules called classifier or score; a head can have others (DeBERTa's pooler).
        config.modules_to_save = sorted({*(config.modules_to_save or ()), *head_modules(model)})
    if hasattr(config, "fan_in_fan_out"):  # PEFT's LoRA has to be told of transposed weights
        config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in model.modules())


def _check_patterns_used(config: PeftConfig, module_names: Sequence[str]) -> None:
    """Refuse a rank or alpha for a name that no adapted module has."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in module_names):
                raise ValueError(f"{key} names {pattern!r}, which matches no adapted module")


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence what the user can do nothing about, and what is an error of ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* did not match any targeted module")
        warnings.filterwarnings("ignore", message="You have passed exclude_modules")
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )
        yield


def set_adapter_dtype(model: PeftModel, dtype: str) -> None:
    """Keep the adapter's tensors as ``float32``, ``bfloat16`` or ``float16``.

    ``auto`` leaves them as they are; a new adapter has the dtype of its base layers. Modules that
    are trained whole keep the base model's dtype.
    """
    if dtype == "auto":
        return
    prefixes = adapter_prefixes(model)
    for name, parameter in model.named_parameters():
        if any(part.startswith(prefixes) for part in name.split(".")):
            parameter.data = parameter.data.to(DTYPES[dtype])


def fit_to_budget(model: nn.Module, settings: Mapping[str, Any]) -> Fit:
    """The settings whose adapter has nearest to ``settings["budget"]`` parameters on this model.

    Modules that are trained whole are not counted, nor are biases of the base model.

    Raises:
        UserError: A budget that is none, that the adapter cannot come to, or any bad setting.
    """
    name, empty = str(settings["name"]), without_weights(model)
    of_tensors = getattr(adapter_module(name), "tucker_tensors", None)

    def count(tried: Mapping[str, Any]) -> int:
        return count_adapter_parameters(_attached_without_weights(empty, tried))

    with _errors_named(name, settings):
        return fit_budget(
            settings,
            count=count,
            base_parameters=sum(parameter.numel() for parameter in empty.parameters()),
            tensors=of_tensors and of_tensors(_attached_without_weights(empty, settings)),
        )


def _attached_without_weights(model: nn.Module, settings: Mapping[str, Any]) -> PeftModel:
    # How the tensors start decides nothing here, and PEFT refuses some starts at some ranks.
    structure = {key: value for key, value in settings.items() if key not in ("budget", "init")}
    return attach_adapter(without_weights(model), structure, seed=0)


def without_weights(model: nn.Module) -> nn.Module:
    """The same architecture on the meta device; the model's own modules are left alone."""
    config = getattr(model, "config", None)
    if config is None or all(parameter.is_meta for parameter in model.parameters()):
        return copy.deepcopy(model).to("meta")
    with torch.device("meta"):
        empty: nn.Module = type(model)(config)
    return empty


# -- describing -----------------------------------------------------------------------------------


def count_parameters(model: PeftModel) -> tuple[int, int]:
    """Trainable parameters and all parameters; also of a model on the meta device."""
    trainable, total = model.get_nb_trainable_parameters()
    return trainable, total


def count_adapter_parameters(model: PeftModel) -> int:
    """The parameters in the adapter's own tensors, on the meta device too."""
    prefixes = adapter_prefixes(model)
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if any(part.startswith(prefixes) for part in name.split("."))
    )


def trainable_parameters_by_module(model: PeftModel) -> dict[str, int]:
    """Trainable parameters summed by the last name of the module they adapt, such as ``q_proj``.

    Tensors that several modules share are under ``shared``.
    """
    prefixes = adapter_prefixes(model)
    counts: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            counts[_adapted_module(name.split("."), prefixes)] += parameter.numel()
    return dict(counts)


def _adapted_module(parts: Sequence[str], prefixes: tuple[str, ...]) -> str:
    for index, part in enumerate(parts):
        if part.startswith(prefixes) or part in ("modules_to_save", "base_layer"):
            return "shared" if parts[index - 1] == "base_model" else parts[index - 1]
    return parts[-2]  # a bias of the base model that is trained as well


def describe_adapter(model: PeftModel) -> dict[str, Any]:
    """``peft_type``, ``trainable_parameters`` (of the adapter, frozen or not) and ``mergeable``."""
    layers = [module for module in model.modules() if isinstance(module, AdapterLinear)]
    frozen = [module.frozen for module in model.modules() if isinstance(module, HalfFrozen)]
    peft_type = str(model.peft_type.value)
    return {
        "peft_type": peft_type,
        "trainable_parameters": sum(tensor.numel() for tensor in _tensors(model).values())
        - sum(tensor.numel() for tensor in frozen),
        "mergeable": peft_type not in UNMERGEABLE
        and all(layer.can_merge(name) for layer in layers for name in layer.configs),
    }


def _tensors(model: PeftModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that they have in a file."""
    tensors: dict[str, torch.Tensor] = peft.get_peft_model_state_dict(
        model, save_embedding_layers=False
    )
    return tensors


# -- saving and loading ---------------------------------------------------------------------------


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter in PEFT's format, asking no hub for anything.

    Names in ``adapter_config.json`` are sorted: PEFT keeps them as sets, whose order differs from
    process to process, and the same run shall write the same file.

    Raises:
        RunFailure: The file system refused.
    """
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        config_file = folder / CONFIG_FILE
        config = json.loads(config_file.read_text(encoding="utf-8"))
        for key in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(config.get(key), list):
                config[key].sort()
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        config_file.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunFailure(f"{folder}: the adapter could not be saved ({error})") from error


def load_adapter(model: nn.Module, folder: Path, *, trainable: bool = False) -> PeftModel:
    """Put a saved adapter on the model, whole or not at all.

    PEFT leaves a tensor that the file lacks at its random start, with a warning; here every tensor
    has to be there, in its shape, and none besides. The tensors keep the dtype they were saved in.

    Args:
        model: The base model; it is changed in place, also where loading then fails. On the meta
            device the adapter gets no values either, but everything about it is checked.
        folder: Where the adapter was saved.
        trainable: Whether to train it further.

    Raises:
        UserError: No adapter is there, or it does not fit this model or these packages.
    """
    if trainable:
        keep_trainable(model)
    found = _shapes_and_dtypes(folder)
    try:
        with warnings.catch_warnings(), _quiet_peft():
            # Settings unknown here would be dropped; the others are checked below, by name.
            warnings.filterwarnings("error", message="Unexpected keyword arguments")
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", message="Some weights of .* were not initialized")
            loaded = PeftModel.from_pretrained(
                model,
                str(folder),
                is_trainable=trainable,
                ignore_mismatched_sizes=True,
                low_cpu_mem_usage=all(parameter.is_meta for parameter in model.parameters()),
            )
    except KeyError as error:
        raise UserError(f"{folder / WEIGHTS_FILE}: it lacks {error.args[0]}") from error
    except (TypeError, ValueError, UserWarning) as error:
        raise UserError(f"{folder}: {' '.join(str(error).split())}") from error
    _check_fit(folder / WEIGHTS_FILE, found, _tensors(loaded))
    prefixes = adapter_prefixes(loaded)
    dtypes = {
        dtype
        for name, (_, dtype) in found.items()
        if any(part.startswith(prefixes) for part in name.split("."))
    }
    if len(dtypes) == 1:
        set_adapter_dtype(loaded, dtypes.pop())
    return loaded


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The config of a saved adapter as it is written, such as ``base_model_name_or_path``.

    Raises:
        UserError: There is none.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; give the folder of an adapter") from error
    except ValueError as error:
        raise UserError(f"{file}: not the config of an adapter ({error})") from error
    if not isinstance(config, dict):
        raise UserError(f"{file}: not the config of an adapter (it holds no keys)")
    return config


def _shapes_and_dtypes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """What the weights file holds, after a look at the config beside it."""
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for file in (config_file, weights_file):
        if not file.is_file():
            raise UserError(f"{file}: no such file; give the folder that an adapter was saved in")
    config = read_adapter_config(folder)
    if config.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise UserError(f"{config_file}: peft_type {config.get('peft_type')!r} is not known here")
    try:
        check_schema_version(config.get("schema_version"))
    except ValueError as error:
        raise UserError(f"{config_file}: {error}") from error
    dtype_names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    try:
        with safe_open(weights_file, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {
                name: (tuple(part.get_shape()), dtype_names.get(part.get_dtype(), "auto"))
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise UserError(f"{weights_file}: not a whole safetensors file ({error})") from error


def _check_fit(
    file: Path,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    expected: Mapping[str, torch.Tensor],
) -> None:
    complaints = {
        "lacks": sorted(set(expected) - set(found)),
        "has besides": sorted(set(found) - set(expected)),
        "has in another shape": sorted(
            f"{name} {found[name][0]} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name][0] != tuple(tensor.shape)
        ),
    }
    parts = [f"it {verb} {_first(names)}" for verb, names in complaints.items() if names]
    if parts:
        raise UserError(f"{file}: does not fit the model and its config: {'; '.join(parts)}")


def _first(names: Sequence[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
