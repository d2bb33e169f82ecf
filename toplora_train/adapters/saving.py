"""Save and load adapters in PEFT's format, completely or not at all."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn

from toplora_train.adapters._peft.sharded import attaching
from toplora_train.adapters.attach import (
    DTYPES,
    quiet_peft,
    set_adapter_dtype,
    tie_trained_embeddings,
    use_kernel,
)
from toplora_train.adapters.base import AdapterLinear, adapter_prefixes
from toplora_train.adapters.configs import check_schema_version
from toplora_train.adapters.describe import adapter_state
from toplora_train.adapters.stored_config import (
    peft_errors,
    validate_matching,
    validate_ranks,
    validate_stored_config,
)
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.reading import read_json, validate_file
from toplora_train.models.embedding import resized_modules
from toplora_train.models.quantized import keep_trainable

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
INDEXED = (
    "SBORA",
    "SHIRA",
    "SUPERTUNING",
    "UNILORA",
    "VBLORA",
)  # methods that save the positions of their values too


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter in PEFT's format, without querying the hub.

    Keys and module names in ``adapter_config.json`` are sorted: PEFT keeps names as sets, whose
    order varies between processes, and the same run must write the same file. Patterns get the
    order back that PEFT does not keep, as the first that matches a module counts.

    Raises:
        RunFailure: Writing the files failed.
    """
    try:
        model.save_pretrained(str(folder), save_embedding_layers=False)
        config_file = folder / CONFIG_FILE
        config = read_json(config_file)
        for key in ("target_modules", "exclude_modules", "modules_to_save"):
            if isinstance(config.get(key), list):
                config[key].sort()
        given = model.peft_config["default"]
        for key in ("rank_pattern", "alpha_pattern"):
            if config.get(key):
                config[key] = {pattern: config[key][pattern] for pattern in getattr(given, key)}
        text = json.dumps(dict(sorted(config.items())), indent=2) + "\n"
        config_file.write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise RunFailure(f"{folder}: the adapter could not be saved ({error})") from error


def load_adapter(
    model: nn.Module, folder: Path, *, trainable: bool = False, kernel: str = "fused"
) -> PeftModel:
    """Load a saved adapter onto the model.

    PEFT leaves tensors that are missing from the file at random values, with a warning; here names
    and shapes must match exactly. Tensors keep the dtype they were saved in.

    Args:
        model: The base model; it is changed in place, even if loading fails. On the meta device the
            adapter has no values either, but all checks are made.
        folder: Where the adapter was saved.
        trainable: Whether to train it further.
        kernel: See :func:`~toplora_train.adapters.attach.use_kernel`.

    Raises:
        UserError: The folder has no adapter, or it does not fit this model or these packages.
    """
    if trainable:
        keep_trainable(model)
    found, resized = shapes_and_dtypes(folder), bool(resized_modules(model))
    validate_names_match(model, folder)
    with (
        warnings.catch_warnings(),
        quiet_peft(ties=resized),
        peft_errors(str(folder)),
        attaching(model),
    ):
        # PEFT would drop unknown settings. Missing tensors are checked below.
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
    _check_fit(folder / WEIGHTS_FILE, found, adapter_state(loaded))
    _check_values(folder / WEIGHTS_FILE, loaded)
    if resized:
        tie_trained_embeddings(loaded)
    prefixes = adapter_prefixes(loaded)
    frozen = {name for layer in loaded.modules() for name in getattr(layer, "frozen_names", ())}
    dtypes = {
        dtype
        for name, (_, dtype) in found.items()
        if any(part.startswith(prefixes) for part in name.split("."))
        and name.rpartition(".")[2] not in frozen
    }
    if len(dtypes) == 1 and dtypes <= DTYPES.keys():
        set_adapter_dtype(loaded, dtypes.pop())
    use_kernel(loaded, kernel)
    return loaded


def adapter_folder(folder: Path, key: str) -> Path:
    """The folder of a saved adapter: the given one, or ``adapter/`` of a run.

    Args:
        folder: A run, or a folder in PEFT's format.
        key: The setting that names it, for messages.

    Raises:
        UserError: There is no adapter, or the run is not finished: its adapter may be that of an
            earlier end.
    """
    if (folder / CONFIG_FILE).is_file():
        return folder
    found = folder / "adapter"
    there = (found / CONFIG_FILE).is_file()
    if (folder / "config.yaml").is_file() and not _is_finished(folder):
        remedy = f", or give {found}, which it wrote before" if there else ""
        raise UserError(
            f"{key}={folder}: this run is not finished; finish it with resume=auto{remedy}"
        )
    if there:
        return found
    raise UserError(
        f"{key}={folder} has no {CONFIG_FILE}; give a finished run or an adapter folder"
    )


def _is_finished(run: Path) -> bool:
    try:
        return read_json(run / "report.json").get("status") == "completed"
    except UserError:
        return False


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The contents of a saved adapter's ``adapter_config.json``.

    Raises:
        UserError: The file is missing or invalid.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the folder of an adapter")
    config = read_json(file)
    validate_stored_config(config, file)
    return config


def validate_names_match(model: nn.Module, folder: Path) -> None:
    """See :func:`validate_matching`, for a saved adapter and a base model."""
    names = [name for name, _ in model.named_modules()]
    validate_matching(read_adapter_config(folder), names, folder / CONFIG_FILE)


def shapes_and_dtypes(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor in the weights file, after validating config and values.

    Raises:
        UserError: A file is missing, or cannot be read by this version; or a tensor holds
            integers, NaN or infinity.
    """
    config_file, weights_file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    for file in (config_file, weights_file):
        if not file.is_file():
            pickled = file == weights_file and weights_file.with_suffix(".bin").is_file()
            remedy = (
                "adapter_model.bin is pickled and not supported; save it again with PEFT"
                if pickled
                else "give the folder of a saved adapter"
            )
            raise UserError(f"{file}: no such file; {remedy}")
    config = read_adapter_config(folder)
    if config.get("peft_type") not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise UserError(
            f"{config_file}: unknown peft_type {config.get('peft_type')!r}; your own method is "
            "known after config_dir=FOLDER, or the import of its module"
        )
    try:
        check_schema_version(config.get("schema_version"))
    except ValueError as error:
        raise UserError(f"{config_file}: {error}") from error
    try:
        with safe_open(weights_file, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{weights_file}: not a valid safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and config["peft_type"] not in INDEXED:
            raise UserError(f"{weights_file}: {name} is {_dtype(tensor)}, not floating point")
        if not torch.isfinite(tensor.float()).all():
            raise UserError(f"{weights_file}: {name} contains NaN or infinity")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    validate_ranks(config, shapes, config_file)
    return {name: (shapes[name], _dtype(tensor)) for name, tensor in tensors.items()}


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        UserError: It is not a file, or not there.
    """
    validate_file(file)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of a saved adapter's configuration and weights, by file name."""
    return {name: sha256_of(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}


def _check_fit(
    file: Path,
    found: Mapping[str, tuple[tuple[int, ...], str]],
    expected: Mapping[str, torch.Tensor],
) -> None:
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "wrong shape": sorted(
            f"{name} {found[name][0]} instead of {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in found and found[name][0] != tuple(tensor.shape)
        ),
    }
    parts = [f"{problem}: {_first(names)}" for problem, names in problems.items() if names]
    if parts:
        raise UserError(f"{file}: does not fit the model and its config: {'; '.join(parts)}")


def _check_values(file: Path, loaded: PeftModel) -> None:
    for name, layer in loaded.get_base_model().named_modules():
        if isinstance(layer, AdapterLinear) and not layer.weight.is_meta:
            try:
                layer.validate_loaded(str(loaded.active_adapter))
            except ValueError as error:
                raise UserError(f"{file}: {name}: {error}") from error


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first(names: Sequence[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
