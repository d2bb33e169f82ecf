"""``toplora-fuse`` by fixed weights: one plain LoRA of several, as PEFT combines them.

    linear              A = sum_i sqrt(s_i w_i) A_i, and likewise B: its product has cross terms
    cat                 A = [s_i w_i A_i], B = [B_i]: sum_i w_i s_i B_i A_i exactly; ranks add up
    ties, dare_linear,  A and B are trimmed first, to a share of their entries (density): the
    dare_ties           largest (TIES) or random ones, scaled up (DARE); TIES agrees on signs

The result is a run directory: its ``adapter/`` loads with PEFT alone; the other commands take it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from toplora_train.adapters._peft.sharded import attaching
from toplora_train.adapters.attach import quiet_peft
from toplora_train.adapters.describe import describe_adapter
from toplora_train.adapters.experts import expert_folders
from toplora_train.adapters.export import short_names
from toplora_train.adapters.saving import (
    file_digests,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from toplora_train.adapters.stored_config import peft_errors
from toplora_train.config.adapter import adapter_defaults
from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_text_atomically
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import RunConfig
from toplora_train.report.card import model_card
from toplora_train.report.card_metadata import Facts
from toplora_train.report.environment import environment
from toplora_train.report.record import (
    Reload,
    Report,
    ReportAdapter,
    ReportData,
    ReportModel,
    ReportTrain,
    completed_report,
    write_report,
)
from toplora_train.run.export import atomic_folder, empty_folder, example_logits
from toplora_train.run.prepare.adapted_model import validate_own_adapter
from toplora_train.run.prepare.encoding import learned_prompt
from toplora_train.run.prepare.objective import load_base, locate_base
from toplora_train.run.prepare.special_tokens import open_tokenizer
from toplora_train.train.sanity_checks import peak_memory

KEY = "runs"


@dataclass(frozen=True)
class Combination:
    """How plain LoRAs are combined: PEFT's ``combination_type``, the weights and the density."""

    method: str
    weights: Sequence[float]
    density: float | None = None
    seed: int = 1

    def __str__(self) -> str:
        density = "" if self.density is None else f", density {self.density:g}"
        return f"{self.method}, weights {', '.join(f'{w:g}' for w in self.weights)}{density}"


def fuse(
    runs: Sequence[Path],
    how: Combination,
    output: Path,
    *,
    command: str,
    trust_remote_code: bool = False,
) -> float:
    """Combine the plain LoRAs of finished runs and write the result as a run.

    Args:
        runs: Two or more runs on the same base model; the first says how the result is prompted.
        how: How to combine them.
        output: A new or empty folder.
        command: The command line, for the report.
        trust_remote_code: Whether the base model's own Python code may run.

    Returns:
        The largest difference between the logits of the combined adapter and of the saved one.

    Raises:
        UserError: A run is not finished, its adapter is no plain LoRA, or they do not fit together.
        RunFailure: The result could not be written.
    """
    started = time.monotonic()
    empty_folder(output)
    for run in runs:
        if run.name == "adapter" and (run.parent / "config.yaml").is_file():
            raise UserError(f"{KEY}: give the run {run.parent}, not its adapter folder")
    folders = expert_folders([str(run) for run in runs], KEY)
    validate_plain(runs, folders, how.method)
    reports = [completed_report(run) for run in runs]
    config = read_config(runs[0] / "config.yaml")
    model = replace(config.model, trust_remote_code=trust_remote_code, quantization=None)
    config = replace(config, model=model)
    location = locate_base(model)
    for run, folder in zip(runs, folders, strict=True):
        validate_own_adapter(run, location)
        load_adapter(load_base(config, location, None, meta=True), folder)  # is it complete?
    base, tokenizer = load_base(config, location, None), open_tokenizer(config, location)
    combined = _combine(base, folders, how)
    expected = example_logits(combined, tokenizer)
    with atomic_folder(output) as aside:
        adapter = aside / "adapter"
        save_adapter(combined, adapter)
        tokenizer.save_pretrained(adapter)
        described = describe_adapter(combined)
        loaded = load_adapter(combined.unload(), adapter)
        difference = float((example_logits(loaded, tokenizer) - expected).abs().max())
        saved = read_adapter_config(adapter)
        settings = adapter_defaults("lora")[0] | {
            "r": saved["r"],
            "alpha": saved["lora_alpha"],
            "target_modules": saved["target_modules"],
        }
        config = replace(config, adapter=settings, output_dir=str(output), command=command)
        write_config(config, aside / "config.yaml")
        first = reports[0]
        report = Report(
            recipe=None,
            seed=how.seed,
            command=command,
            protocol=first["protocol"],
            protocol_hash=first["protocol_hash"],
            model=ReportModel(**first["model"]),
            adapter=ReportAdapter(
                name="lora", **described, settings=settings, files=file_digests(adapter)
            ),
            data=_all_data([report["data"] for report in reports]),
            train=_no_training(config, time.monotonic() - started),
            tasks={},
            reload=Reload(difference, [], []),
            environment=environment("cpu"),
            notes=[f"Fused, not trained, from {', '.join(map(str, runs))} ({how})."],
        )
        write_report(aside / "report.json", report)
        prompt = learned_prompt(
            report.protocol,
            tokenizer,
            chat=report.data.wording == "chat",
            template=report.data.prompt,
        )
        card = model_card(report.to_dict(), prompt=prompt, facts=Facts.of(config))
        write_text_atomically(adapter / "README.md", card)
    return difference


def validate_plain(runs: Sequence[Path], folders: Sequence[Path], method: str) -> None:
    """Check that PEFT can combine the adapters.

    Raises:
        UserError: One is no plain LoRA, or its ranks rule the method out.
    """
    ranks: dict[int, Path] = {}
    for run, folder in zip(runs, folders, strict=True):
        saved = read_adapter_config(folder)
        kind = "DORA" if saved.get("use_dora") else saved["peft_type"]
        if kind != "LORA":
            raise UserError(
                f"{KEY}: {run} is a {kind} adapter, and method={method} combines plain LoRAs only; "
                "use method=flow, or train adapter=lora"
            )
        if method == "cat":
            continue
        if saved.get("rank_pattern"):
            raise UserError(
                f"{KEY}: {run} has modules of different ranks, for which method={method} is not "
                "defined; use method=cat or method=flow"
            )
        ranks.setdefault(int(saved["r"]), run)
    if len(ranks) > 1:
        (r, run), (other_r, other) = list(ranks.items())[:2]
        raise UserError(
            f"{KEY}: {run} has rank {r} and {other} rank {other_r}, but method={method} adds their "
            "matrices; use method=cat or method=flow"
        )


def _combine(base: Any, folders: Sequence[Path], how: Combination) -> PeftModel:
    names = [f"run{number}" for number in range(len(folders))]
    with peft_errors(KEY), quiet_peft(), attaching(base):
        model = PeftModel.from_pretrained(base, str(folders[0]), adapter_name=names[0])
        for name, folder in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name)
        adapted = [_name_all_modules(model, name) for name in names]
        # PEFT keeps the first one's flag, by which it would scale the result once more.
        model.peft_config[names[0]].use_rslora = False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(how.seed)
            model.base_model.add_weighted_adapter(
                names, list(how.weights), "default", how.method, density=how.density
            )
        model.set_adapter("default")
        for name in names:
            model.delete_adapter(name)
        together = sorted(set().union(*adapted))
        model.peft_config["default"].target_modules = set(short_names(model, together))
    return model.eval()


def _name_all_modules(model: PeftModel, name: str) -> set[str]:
    """Let an adapter's config name its modules in full; returns them.

    PEFT joins the target modules of those that it combines, and takes from the first what leaves
    some of them out: the combination would lack modules of the others.
    """
    config: Any = model.peft_config[name]
    found = {
        module
        for module, layer in model.base_model.model.named_modules()
        if name in getattr(layer, "lora_A", {}) or name in getattr(layer, "lora_embedding_A", {})
    }
    config.target_modules = set(found)
    config.layers_to_transform = config.layers_pattern = config.exclude_modules = None
    return found


def _all_data(data: Sequence[Mapping[str, Any]]) -> ReportData:
    """The rows of all runs; how they were worded is the first run's."""
    sources = [one["source"] for one in data]
    digest = hashlib.sha256("".join(one["sha256"] for one in data).encode())
    counted = ("rows", "truncated_rows", "supervised_tokens", "dropped_rows", "validation_rows")
    return ReportData(
        **{**data[0], **{key: sum(one[key] for one in data) for key in (*counted, "tokens")}}
        | {
            "source": [s for one in sources for s in (one if isinstance(one, list) else [one])],
            "sha256": digest.hexdigest(),
            "contamination": None,
            "supervised_share": None,
        }
    )


def _no_training(config: RunConfig, seconds: float) -> ReportTrain:
    return ReportTrain(
        steps=0,
        epochs=0.0,
        loss_first=float("nan"),
        loss_last=float("nan"),
        tokens=0,
        padding_fraction=0.0,
        seconds=seconds,
        tokens_per_second=0.0,
        peak_memory_bytes=peak_memory(torch.device("cpu")),
        world_size=1,
        mixed_precision=config.trainer.mixed_precision,
    )
