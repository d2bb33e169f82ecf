"""An adapter in a folder, in PEFT's format: written whole, and read whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn

from toplora_train.adapters.attach import (
    quiet_peft,
    set_adapter_dtype,
    tie_trained_embeddings,
)
from toplora_train.adapters.base import adapter_prefixes
from toplora_train.adapters.configs import check_schema_version
from toplora_train.adapters.describe import adapter_state
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.models.embedding import resized_modules
from toplora_train.models.quantized import keep_trainable

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


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
    found, resized = shapes_and_dtypes(folder), bool(resized_modules(model))
    try:
        with warnings.catch_warnings(), quiet_peft(ties=resized):
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
    _check_fit(folder / WEIGHTS_FILE, found, adapter_state(loaded))
    if resized:
        tie_trained_embeddings(loaded)
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


def shapes_and_dtypes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """What the weights file holds, after a look at the config beside it.

    Raises:
        UserError: One of the two is missing, or cannot be read here.
    """
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for file in (config_file, weights_file):
        if not file.is_file():
            pickled = file == weights_file and weights_file.with_suffix(".bin").is_file()
            remedy = (
                "adapter_model.bin is pickled and not read; save it again by PEFT"
                if pickled
                else "give the folder that an adapter was saved in"
            )
            raise UserError(f"{file}: no such file; {remedy}")
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
