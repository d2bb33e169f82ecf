"""``toplora-export``: write a finished run's adapter in a format that needs no toplora-train.

``lora`` is an adapter in PEFT's LoRA format: LoRA and DoRA unchanged, TensLoRA, GenLoRA and TopLoRA
without its gate as the equivalent plain LoRA. ``merged`` is the base model's checkpoint with the
update merged into its weights. The result is loaded again and compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toplora_train.adapters.base import AdapterLinear
from toplora_train.adapters.export import is_plain_lora, save_as_lora
from toplora_train.adapters.saving import CONFIG_FILE, WEIGHTS_FILE, load_adapter
from toplora_train.config.aside import folder_aside
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.resolved import read_config
from toplora_train.data.prompts import build_prompt
from toplora_train.report.record import completed_report
from toplora_train.run.assemble.reload import rounding
from toplora_train.run.prepare.adapted_model import validate_own_adapter
from toplora_train.run.prepare.objective import load_base, locate_base
from toplora_train.run.prepare.special_tokens import open_tokenizer

PROBE = "How many legs do three dogs and a bird have? Count them one by one."


@dataclass(frozen=True)
class Export:
    """The exported folder, its format, and how far its logits are from the adapter's.

    ``quantization`` is the base model's in training; the export uses unquantized weights. ``dora``:
    what was written is a DoRA.
    """

    folder: Path
    format: str
    max_abs_logit_difference: float
    largest_logit: float
    quantization: str | None = None
    dora: bool = False


def export(
    run_dir: Path, *, format: str, output: Path | None = None, trust_remote_code: bool = False
) -> Export:
    """Write a run's adapter in another format, and verify it.

    Args:
        run_dir: A finished run.
        format: ``lora`` or ``merged``.
        output: A new or empty folder; by default ``run_dir/FORMAT``.
        trust_remote_code: Whether the base model's own Python code may run. The run's setting does
            not count, as the run may be a stranger's.

    Raises:
        UserError: There is no run, the adapter does not fit its base model, or its method does not
            support the format; then nothing is written.
        RunFailure: The export could not be written, or computes something else; then it is not.
    """
    folder = empty_folder(output or run_dir / format)
    if (run_dir / "report.json").is_file():  # a run that is extended has the shorter one's adapter
        completed_report(run_dir)
    config = read_config(run_dir / "config.yaml")
    model = replace(config.model, trust_remote_code=trust_remote_code)
    config = replace(config, model=model)
    adapter = run_dir / "adapter"
    if not adapter.is_dir():
        raise UserError(f"{run_dir} has no adapter: the run is not finished")
    location = locate_base(config.model)
    validate_own_adapter(run_dir, location)
    # Errors surface on a model without weights.
    whole = replace(config, model=replace(config.model, quantization=None))
    without_weights = load_base(whole, location, None, meta=True)
    validate_convertible(load_adapter(without_weights, adapter), format)

    base = load_base(whole, location, None)
    tokenizer = open_tokenizer(config, location)
    adapted = load_adapter(base, adapter)
    expected = example_logits(adapted, tokenizer)
    write = _write_merged if format == "merged" else _write_lora
    largest = float(expected.abs().max())
    with atomic_folder(folder) as aside:
        write(adapted, adapter, aside)
        tokenizer.save_pretrained(aside)
        written: nn.Module = (
            type(base).from_pretrained(aside, dtype=base.dtype)
            if format == "merged"
            else load_adapter(adapted.unload(), aside)
        )
        difference = float((example_logits(written, tokenizer) - expected).abs().max())
        if not difference <= rounding(base) * max(1.0, largest):  # NaN neither
            raise RunFailure(
                f"format={format}: the export computes something else (its logits differ by "
                f"{difference:.2g}, the largest is {largest:.3g}), so it was not written; load the "
                "adapter with PEFT as it is, and report this"
            )
    saved: Any = adapted.peft_config["default"]
    dora = format == "lora" and bool(getattr(saved, "use_dora", False))
    return Export(folder, format, difference, largest, config.model.quantization, dora)


def validate_convertible(adapted: PeftModel, format: str) -> None:
    """Check that the format can represent the adapter.

    Raises:
        UserError: It cannot; says why, and what can be done instead.
    """
    name = adapted.active_adapter
    layers = [module for module in adapted.modules() if isinstance(module, AdapterLinear)]
    for layer in layers:
        if not layer.can_merge(name):
            raise UserError(f"format={format}: {layer.unmergeable_reason}")
    if getattr(adapted.peft_config[name], "alora_invocation_tokens", None):
        raise UserError(
            f"format={format}: an Activated LoRA changes only the tokens from its invocation on, "
            "which no plain LoRA and no weight does; load it with PEFT as it is"
        )
    if format == "merged":
        _validate_untied(adapted)
    if format == "lora" and not layers and not is_plain_lora(adapted):
        kind = str(adapted.peft_config[name].peft_type.value)
        raise UserError(
            f"format=lora: a {kind} adapter has no exact plain LoRA; use format=merged, or load it "
            "with PEFT as it is"
        )


def _validate_untied(adapted: PeftModel) -> None:
    """Refuse to merge into one of two layers that share their weight."""
    base: Any = adapted.get_base_model()
    if not getattr(base.config, "tie_word_embeddings", False):
        return
    for module in (base.get_input_embeddings(), base.get_output_embeddings()):
        if hasattr(module, "base_layer"):
            raise UserError(
                "format=merged: the adapter changes the embedding or the output layer, which share "
                "their weight in this model, so that the update would change both; load the "
                "adapter with PEFT as it is"
            )


def empty_folder(folder: Path) -> Path:
    """The folder, if it is new or empty.

    Raises:
        UserError: It is not, or cannot be created.
    """
    try:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise UserError(f"{folder} already exists; choose another with output=FOLDER")
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output={folder} cannot be created ({error.strerror}); choose another folder"
        ) from error
    return folder


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder aside to write into, which takes its name in the end.

    Raises:
        RunFailure: It could not be written.
    """
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
    except (ValueError, NotImplementedError) as error:  # a layer or method that does not merge
        raise UserError(f"format=merged: {' '.join(str(error).split())}") from error
    merged.save_pretrained(folder)


def _write_lora(adapted: PeftModel, adapter: Path, folder: Path) -> None:
    if not is_plain_lora(adapted):
        save_as_lora(adapted, folder)
        return
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(adapter / file, folder / file)


@torch.inference_mode()
def example_logits(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """The model's logits on an example, ``(1, tokens, vocabulary)``, in float32."""
    ids = tokenizer(build_prompt(PROBE), return_tensors="pt").input_ids
    logits: Tensor = model.eval()(input_ids=ids).logits
    return logits.float()
