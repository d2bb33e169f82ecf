"""A finished run's model: the base model with the saved adapter, both those of the run itself."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from toplora_train.adapters.attach import kernel_of
from toplora_train.adapters.saving import file_digests, load_adapter, read_adapter_config
from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.models.identity import model_digest
from toplora_train.models.locate import ModelLocation
from toplora_train.report.record import read_report
from toplora_train.run.prepare.objective import find_objective, load_base, locate_base
from toplora_train.run.prepare.special_tokens import open_tokenizer


def load_adapted(
    config: RunConfig, run_dir: Path, *, device: torch.device | str = "cpu"
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load the model of a run and its tokenizer.

    Args:
        config: The run's configuration.
        run_dir: A finished run.
        device: Where to compute.

    Raises:
        UserError: The base model is not available, or the adapter is not the run's
            own or does not fit it.
    """
    location = locate_base(config.model)
    validate_own_adapter(run_dir, location)
    tokenizer = open_tokenizer(config, location)
    base = load_base(config, location, find_objective(config, tokenizer).head)
    adapted = load_adapter(base, run_dir / "adapter", kernel=kernel_of(config.adapter))
    model: PeftModel = adapted.to(device).eval()
    return model, tokenizer


def validate_base_intact(run_dir: Path) -> None:
    """Refuse to take the model without its adapter for the base model if biases were trained.

    Raises:
        UserError: They were: PEFT leaves them in the model.
    """
    bias = read_adapter_config(run_dir / "adapter").get("bias") or "none"
    if bias != "none":
        raise UserError(
            f"{run_dir}: the run trained biases of the base model too (bias={bias}), which stay in "
            "it without the adapter; use base=false (toplora-eval scores the base model itself)"
        )


def validate_own_adapter(run_dir: Path, location: ModelLocation | None) -> None:
    """Compare the saved adapter and its base model with what the run recorded.

    What an unfinished or older run did not record is not compared.

    Args:
        run_dir: The run.
        location: The base model that the run's configuration names, as found now;
            None: not compared.

    Raises:
        UserError: The adapter's method, its base model or its files are not the run's.
    """
    adapter, report_file = run_dir / "adapter", run_dir / "report.json"
    report = read_report(report_file) if report_file.exists() else {}
    trained, base = report.get("adapter", {}), report.get("model", {})
    saved = read_adapter_config(adapter)
    method, trained_on = saved.get("peft_type"), saved.get("base_model_name_or_path")
    if trained and method != trained["peft_type"]:
        raise UserError(
            f"{adapter}: holds a {method} adapter, but the run trained {trained['peft_type']}; "
            "restore the run's own adapter"
        )
    if location and trained_on is not None and trained_on != location.name:
        raise UserError(
            f"{adapter}: the adapter was trained on {trained_on}, but the run's config.yaml names "
            f"{location.name} as its base model; an adapter only works with its own"
        )
    digest = model_digest(location) if location and location.folder else None
    if base.get("sha256") and digest and base["sha256"] != digest:
        raise UserError(
            f"{trained_on}: not the model that {run_dir} was trained on (the digest of its "
            "config and weight headers differs); an adapter only works with its own base model"
        )
    if trained.get("files"):
        for name, digest in file_digests(adapter).items():
            if digest != trained["files"].get(name):
                raise UserError(
                    f"{adapter / name}: not the file that the run saved (its SHA-256 is not the "
                    f"one in {report_file.name}); restore the run's own adapter"
                )
