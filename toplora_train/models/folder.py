"""What a base model's folder holds; it is validated before transformers reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from toplora_train.config.errors import UserError, one_line
from toplora_train.config.reading import read_json, validate
from toplora_train.models.tensors import validate_tensors

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "spm.model", "vocab.json", "vocab.txt"),
    "tokenizer_config.json",  # alone for tokenizers of bytes, or with code of their own
    "preprocessor_config.json",  # of images
)
STRANGE_MODEL = (
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    SafetensorError,
)
"""What transformers raises, besides OSError and ValueError, for files that passed these checks."""
SIZES = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "hidden_size": 10_000_000,
    "intermediate_size": 100_000_000,
    "vocab_size": 100_000_000,
}
"""Sizes that must be positive, with limits far above any model's; a larger one would never end."""


def validate_model_folder(folder: Path, *, weights: bool = True) -> None:
    """Refuse a folder whose ``config.json`` or weights are damaged or something else.

    The config of a model with code of its own is left to that code.

    Args:
        folder: The folder, with a ``config.json``.
        weights: Whether to validate the weights too; only their headers are read.

    Raises:
        UserError: Names the file and what is wrong.
    """
    file = folder / "config.json"
    config = read_json(file)
    if "auto_map" not in config:
        _validate_config(config, file)
    generation = folder / "generation_config.json"
    if generation.exists():  # transformers would do without it, and so without its eos_token_id
        read_json(generation)
    if weights:
        _validate_weights(folder)


def shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: those in its index, else all in the folder.

    Raises:
        UserError: The index does not map tensors to files in this folder.
    """
    index = folder / INDEX
    if not index.is_file():
        return sorted(folder.glob("*.safetensors"))
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: no weight_map from tensors to files")
    for name in names.values():
        if not isinstance(name, str) or name != Path(name).name:
            raise UserError(f"{index}: {name!r} is not a file in this folder")
    return [folder / name for name in sorted(set(names.values()))]


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds all weights of a checkpoint: every shard, and their index."""
    if not (folder / INDEX).is_file():
        return (folder / "model.safetensors").is_file()
    return all(file.is_file() for file in shards(folder))


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer, or what prepares images."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def _validate_config(config: Mapping[str, Any], file: Path) -> None:
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        found = "no model_type" if kind is None else f"the unknown model_type {kind!r}"
        raise UserError(f"{file}: has {found}; is it a model for transformers?")
    validate(list[str] | None, config.get("architectures"), f"{file}: architectures")  # type: ignore[arg-type]
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key, largest in SIZES.items():
            value = part.get(key)
            if isinstance(value, int) and not 1 <= value <= largest:  # a list has one per layer
                raise UserError(f"{file}: {key} is {value!r}, not a size from 1 to {largest}")
        pad, size = part.get("pad_token_id"), part.get("vocab_size")
        if isinstance(pad, int) and isinstance(size, int) and not -size <= pad < size:
            raise UserError(
                f"{file}: pad_token_id is {pad}, beyond the {size} tokens of vocab_size"
            )
        for key in ("dtype", "torch_dtype"):
            value = part.get(key)
            known = isinstance(value, str) and isinstance(
                getattr(torch, value.removeprefix("torch."), None), torch.dtype
            )
            if value not in (None, "auto") and not known:
                raise UserError(f"{file}: {key} is {value!r}, which is not a dtype of PyTorch")
    try:
        AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    except Exception as error:  # each model's config class has its own checks
        raise UserError(f"{file}: not a config of {kind} ({one_line(error)})") from error


def _validate_weights(folder: Path) -> None:
    found = shards(folder)
    for file in found:
        validate_tensors(file)
    pickled = sorted(folder.glob("pytorch_model*.bin"))
    if pickled and not found:
        raise UserError(
            f"{pickled[0]}: pickled weights can run code and are not read; save the model as "
            "safetensors (save_pretrained does)"
        )
