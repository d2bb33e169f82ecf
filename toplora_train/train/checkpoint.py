"""Atomic checkpoints from which a run resumes bit for bit.

    checkpoints/step-00000200/
        adapter.safetensors     the adapter's tensors, under PEFT's names
        optimizer.safetensors   moments and step counts, named <parameter index>.<key>
        random.safetensors      the state of torch's RNGs on each process
        state.json              step, totals, settings, the optimizer's parameter groups
        manifest.json           SHA-256 of each file above

The base model is never saved, and nothing is unpickled. Files are written to a temporary folder,
fsynced, then renamed. No scheduler state: the learning rate is a function of the step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from toplora_train.config.aside import rescue
from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.folders import checkpoint_folders, checkpoint_name
from toplora_train.config.reading import read_json, validate, validate_file
from toplora_train.models.sharded import full_tensor
from toplora_train.models.tensors import read_tensors, validate_tensors
from toplora_train.train.processes import random_states, restore_random_state
from toplora_train.train.sharding import shard_like
from toplora_train.train.spikes import LossTrend

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
ADAPTER, OPTIMIZER, RANDOM = (f"{name}.safetensors" for name in ("adapter", "optimizer", "random"))
STATE, MANIFEST = "state.json", "manifest.json"


@dataclass(frozen=True)
class TrainState:
    """A run's progress: the last completed step and the totals up to it.

    ``window_loss`` and ``window_tokens`` sum the loss and the supervised tokens since the last
    logged step, so that a resumed run logs the same means.
    """

    step: Annotated[int, Field(ge=0)] = 0
    seconds: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    window_loss: float = 0.0
    window_tokens: int = 0
    trend: LossTrend = field(default_factory=LossTrend)
    settings: dict[str, Any] = field(default_factory=dict)

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def after(
        self, step: int, loss: float, *, seconds: float, tokens: int, supervised_tokens: int
    ) -> TrainState:
        """The state after one more step, whose ``loss`` is per supervised token."""
        return replace(
            self,
            step=step,
            seconds=self.seconds + seconds,
            tokens=self.tokens + tokens,
            supervised_tokens=self.supervised_tokens + supervised_tokens,
            window_loss=self.window_loss + loss * supervised_tokens,
            window_tokens=self.window_tokens + supervised_tokens,
            trend=self.trend.after(loss, step),
        )

    def reset_logging_window(self) -> TrainState:
        """The state after a logged step, with the sums since the last log line at zero."""
        trend = replace(self.trend, spikes=0)
        return replace(self, window_loss=0.0, window_tokens=0, trend=trend)


@dataclass(frozen=True)
class _OptimizerState:
    """What an optimizer's state holds besides tensors."""

    param_groups: list[dict[str, Any]]
    state: dict[str, Any]


@dataclass(frozen=True)
class _Document:
    """The content of ``state.json``."""

    schema_version: int
    train: TrainState
    optimizer: _OptimizerState
    scaler: dict[str, Any] | None


def save_checkpoint(
    folder: Path,
    *,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    state: TrainState,
    keep: int,
) -> Path:
    """Write ``folder/step-NNNNNNNN`` and delete all but the ``keep`` newest checkpoints.

    Call it on every process, as each has its own RNG state; the main process writes.

    Raises:
        RunFailure: writing failed (disk full); earlier checkpoints are untouched, and this one is
            kept in the temporary folder if possible.
    """
    target = folder / checkpoint_name(state.step)
    aside = folder / f".writing-{target.name}"
    tensors, scalars = _split_optimizer_state(optimizer)
    adapter, random = adapter_tensors(model), random_states(accelerator)
    if not accelerator.is_main_process:
        return target
    scaler = accelerator.scaler
    document = {
        "schema_version": SCHEMA_VERSION,
        "train": asdict(state),
        "optimizer": scalars,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }

    def write(aside: Path) -> None:
        aside.mkdir(parents=True)
        save_file(adapter, aside / ADAPTER)
        save_file(tensors, aside / OPTIMIZER)
        save_file(random, aside / RANDOM)
        (aside / STATE).write_text(json.dumps(document))
        manifest = {path.name: _sha256(path) for path in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2))
        _flush(aside)

    try:
        for stale in folder.glob(".writing-*"):  # of a killed attempt: the run locks its folder
            shutil.rmtree(stale, ignore_errors=True)
        write(aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _flush_entry(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        intact = checkpoint_folders(folder)
        earlier = f"{intact[-1].name} is intact" if intact else "there is no earlier one"
        raise RunFailure(
            f"the checkpoint of step {state.step} could not be written to {folder} ({error}); "
            f"{rescue(write, target.name)}; {earlier}. Free disk space, move what was kept to "
            f"{folder}, then continue with resume=auto"
        ) from error
    # A later one is damaged, or of a run that went back: it is not the newest.
    others = [path for path in checkpoint_folders(folder) if path != target]
    for old in others[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(old)
    return target


def newest_checkpoint(folder: Path, *, warn: Callable[[str], None] = logger.warning) -> Path | None:
    """The newest checkpoint whose files are whole and valid; damaged ones are named by ``warn``.

    Raises:
        UserError: see :func:`read_state`.
    """
    for candidate in reversed(checkpoint_folders(folder)):
        if damage := _damage(candidate):
            warn(f"{candidate} is damaged ({damage}); using the one before it")
        else:
            return candidate
    return None


def read_state(checkpoint: Path) -> TrainState:
    """The training state stored in a checkpoint.

    Raises:
        UserError: it was written by a newer version of this package.
    """
    return _read_document(checkpoint).train


def load_checkpoint(
    checkpoint: Path,
    *,
    model: PeftModel,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Restore the adapter, optimizer, gradient scaler and RNG states.

    Raises:
        UserError: the names or shapes of the checkpoint's tensors are not this adapter's, or its
            optimizer state is not this optimizer's.
    """
    tensors = read_tensors(checkpoint / ADAPTER)
    expected = adapter_tensors(model)
    if differing := {
        name
        for name in expected.keys() | tensors.keys()
        if name not in tensors
        or name not in expected
        or tensors[name].shape != expected[name].shape
    }:
        raise UserError(
            f"{checkpoint} holds a different adapter: {min(differing)} and {len(differing) - 1} "
            "more tensors differ; use the settings it was saved with, or another output_dir"
        )
    set_adapter_tensors(model, tensors)
    document = _read_document(checkpoint)
    moments, random = (read_tensors(checkpoint / name) for name in (OPTIMIZER, RANDOM))
    try:
        _restore_optimizer_state(optimizer, moments, document.optimizer)
        if accelerator.scaler is not None and document.scaler is not None:
            accelerator.scaler.load_state_dict(document.scaler)
        restore_random_state(random, accelerator)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint} holds the state of another optimizer or device ({error}); use the "
            "settings it was saved with, or another output_dir"
        ) from error


def validate_same_settings(
    checkpoint: Path, stored: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse to resume with settings that differ from the checkpoint's.

    Both mappings are flat: dotted key to value.

    Raises:
        UserError: some differ; names the keys, with both values.
    """
    # Through JSON, as a tuple was stored as a list.
    stored, now = (json.loads(json.dumps(dict(settings))) for settings in (stored, now))
    differing = [
        key for key in sorted(stored.keys() | now.keys()) if stored.get(key) != now.get(key)
    ]
    if differing:
        changes = ", ".join(
            f"{key} was {stored.get(key)!r}, now {now.get(key)!r}" for key in differing
        )
        raise UserError(
            f"{checkpoint} was saved with other settings: {changes}; use those, or another "
            "output_dir"
        )


def adapter_tensors(model: PeftModel) -> dict[str, Tensor]:
    """CPU copies of the adapter's tensors, under the names PEFT saves them with.

    Copies, because safetensors rejects tensors that share memory (PEFT's Lily ties some layers).
    """
    # Embeddings are trained through modules_to_save only, which PEFT saves anyway; its "auto"
    # would query the hub.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        name: full_tensor(tensor.detach()).to("cpu", copy=True).contiguous()
        for name, tensor in state.items()
    }


def set_adapter_tensors(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors that :func:`adapter_tensors` returned into the adapter."""
    current = get_peft_model_state_dict(model, save_embedding_layers=False)
    set_peft_model_state_dict(model, shard_like(tensors, current))


def _split_optimizer_state(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state's tensors by dotted key, ``<parameter index>.<key>``, and everything else."""
    state_dict = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}

    def split(prefix: str, entries: Mapping[Any, Any]) -> None:
        for name, value in entries.items():
            if isinstance(value, Mapping):
                split(f"{prefix}{name}.", value)
            elif isinstance(value, Tensor):
                # Cloned: 8-bit optimizers share one quantization map among all parameters.
                tensors[f"{prefix}{name}"] = full_tensor(value.detach()).cpu().clone()
            else:
                scalars[f"{prefix}{name}"] = value

    split("", state_dict["state"])
    return tensors, {"param_groups": state_dict["param_groups"], "state": scalars}


def _restore_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: _OptimizerState
) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    like = {key: parameters[int(key.split(".", 1)[0])] for key in tensors}
    state: dict[int, dict[str, Any]] = {}
    # Copies have the alignment of torch's own memory, on which products' rounding depends; a file's
    # tensors lie anywhere.
    aligned = {key: value.clone() for key, value in shard_like(tensors, like).items()}
    for key, value in {**aligned, **scalars.state}.items():
        index, *path, name = key.split(".")
        entries = state.setdefault(int(index), {})
        for part in path:
            entries = entries.setdefault(part, {})
        entries[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": scalars.param_groups})


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None.

    Raises:
        UserError: nothing, but they are of a newer version of this package.
    """
    try:
        manifest = read_json(checkpoint / MANIFEST)
        for name, digest in manifest.items():
            if name != Path(name).name or _sha256(checkpoint / name) != digest:
                return f"{name} does not match its checksum"
        document = read_json(checkpoint / STATE)
    except (OSError, UserError) as error:
        return str(error)
    _refuse_newer(checkpoint, document)
    if differing := manifest.keys() ^ {ADAPTER, OPTIMIZER, RANDOM, STATE}:
        return f"{MANIFEST} lacks or adds {min(differing)}"
    try:
        validate(_Document, document, STATE)
        for name in (ADAPTER, OPTIMIZER, RANDOM):
            validate_tensors(checkpoint / name)
    except UserError as error:
        return str(error)
    return None


def _read_document(checkpoint: Path) -> _Document:
    path = checkpoint / STATE
    values = read_json(path)
    _refuse_newer(checkpoint, values)
    return validate(_Document, values, str(path))


def _refuse_newer(checkpoint: Path, document: Mapping[str, Any]) -> None:
    version = document.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"{checkpoint} was written by a newer toplora-train; upgrade, or start a new run"
        )


def _sha256(path: Path) -> str:
    validate_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        _flush_entry(path)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
