"""``toplora-export``: a finished run's adapter in a form that is read without this package.

``lora`` is an adapter in PEFT's LoRA format: LoRA and DoRA as they are, TensLoRA, GenLoRA and
TopLoRA without its gate as the plain LoRA that computes the same. ``merged`` is the base model's
checkpoint with the update in its weights. What was written is read again and compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toplora_train.adapters.base import AdapterLinear
from toplora_train.adapters.export import is_plain_lora, save_as_lora
from toplora_train.adapters.saving import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_adapter,
    read_adapter_config,
)
from toplora_train.config.aside import folder_aside
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig
from toplora_train.data.prompts import build_prompt
from toplora_train.models.locate import ModelLocation, locate_model
from toplora_train.run.prepare.objective import load_base
from toplora_train.run.prepare.special_tokens import open_tokenizer

FORMATS = ("lora", "merged")
PROBE = "How many legs do three dogs and a bird have? Count them one by one."


@dataclass(frozen=True)
class Export:
    """What was written: where, in which format, and how far its logits are from the adapter's.

    ``quantization`` is that of the base model in training; here it has its own weights.
    """

    folder: Path
    format: str
    max_abs_logit_difference: float
    largest_logit: float
    quantization: str | None = None


def export(run_dir: Path, *, format: str, output: Path | None = None) -> Export:
    """Write a run's adapter in another format, and read it again.

    Args:
        run_dir: A finished run.
        format: One of :data:`FORMATS`.
        output: A folder that is not there yet, or is empty; by default ``run_dir/FORMAT``.

    Raises:
        UserError: No run, an adapter that does not fit its base model, or a method that has no
            such form; then nothing is written.
        RunFailure: The file system refused.
    """
    folder = _empty_folder(output or run_dir / format)
    config = read_config(run_dir / "config.yaml")
    adapter = run_dir / "adapter"
    if not adapter.is_dir():
        raise UserError(f"{run_dir} has no adapter: the run is not finished")
    if (task := head_task(config)) is not None:
        raise UserError(
            f"{run_dir} trained a head for {task.name}, and exports hold language models only; "
            "load its adapter/ with PEFT: the head is in it"
        )
    location = _location(config)
    _validate_same_base(adapter, location)
    # What is wrong shows on a model without weights already.
    whole = replace(config, model=replace(config.model, quantization=None))
    without_weights = load_base(whole, location, None, meta=True)
    validate_convertible(load_adapter(without_weights, adapter), format)

    base = load_base(whole, location, None)
    tokenizer = open_tokenizer(config, location)
    adapted = load_adapter(base, adapter)
    expected = _logits(adapted, tokenizer)
    write = _write_merged if format == "merged" else _write_lora
    with _whole_or_absent(folder) as aside:
        write(adapted, adapter, aside)
        tokenizer.save_pretrained(aside)
    written = _read_merged(base, folder) if format == "merged" else _read_lora(adapted, folder)
    difference = (_logits(written, tokenizer) - expected).abs().max()
    largest = float(expected.abs().max())
    return Export(folder, format, float(difference), largest, config.model.quantization)


def validate_convertible(adapted: PeftModel, format: str) -> None:
    """Refuse a format that cannot hold the adapter, before anything is written.

    Raises:
        UserError: Says why, and what can be done instead.
    """
    name = adapted.active_adapter
    layers = [module for module in adapted.modules() if isinstance(module, AdapterLinear)]
    for layer in layers:
        if not layer.can_merge(name):
            raise UserError(f"format={format}: {layer.unmergeable_reason}")
    if format == "lora" and not layers and not is_plain_lora(adapted):
        kind = str(adapted.peft_config[name].peft_type.value)
        raise UserError(
            f"format=lora: a {kind} adapter has no exact plain LoRA; use format=merged, or keep it "
            "as it is: PEFT alone reads it"
        )


def _empty_folder(folder: Path) -> Path:
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder} is there already; choose another with output=FOLDER")
    return folder


def _location(config: RunConfig) -> ModelLocation:
    return locate_model(
        path=config.model.path,
        revision=config.model.revision,
        package=config.model.package,
        builtin=config.model.builtin,
    )


def _validate_same_base(adapter: Path, location: ModelLocation) -> None:
    trained_on = read_adapter_config(adapter).get("base_model_name_or_path")
    if trained_on is not None and trained_on != location.name:
        raise UserError(
            f"{adapter}: the adapter was trained on {trained_on}, but the run's config.yaml names "
            f"{location.name} as its base model; an adapter is worth nothing on another one"
        )


@contextmanager
def _whole_or_absent(folder: Path) -> Iterator[Path]:
    try:
        with folder_aside(folder) as aside:
            yield aside
            if folder.is_dir():  # and empty
                folder.rmdir()
            aside.rename(folder)
    except (OSError, SafetensorError) as error:
        raise RunFailure(f"{folder}: the export could not be written ({error})") from error


def _write_merged(adapted: PeftModel, adapter: Path, folder: Path) -> None:
    del adapter
    try:
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:  # PEFT's word for a layer or a method that does not merge
        raise UserError(f"format=merged: {' '.join(str(error).split())}") from error
    merged.save_pretrained(folder)


def _read_merged(base: PreTrainedModel, folder: Path) -> nn.Module:
    merged: nn.Module = type(base).from_pretrained(folder, dtype=base.dtype)
    return merged


def _write_lora(adapted: PeftModel, adapter: Path, folder: Path) -> None:
    if not is_plain_lora(adapted):
        save_as_lora(adapted, folder)
        return
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(adapter / file, folder / file)


def _read_lora(adapted: PeftModel, folder: Path) -> nn.Module:
    plain: nn.Module = load_adapter(adapted.unload(), folder)
    return plain


@torch.inference_mode()
def _logits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    ids = tokenizer(build_prompt(PROBE), return_tensors="pt").input_ids
    logits: Tensor = model.eval()(input_ids=ids).logits
    return logits.float()
