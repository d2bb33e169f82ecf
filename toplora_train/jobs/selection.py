"""The epoch that is kept: the one whose adapter does best on held-out rows of the train set.

Choosing the epoch by the dev set itself, as is often done, makes the dev score too good; so the dev
set is asked only afterwards, once with the last and once with the chosen adapter.

    checkpoints/selected/
        adapter.safetensors     the tensors of the best epoch so far
        epochs.json             every judged epoch: step, epoch, value
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from toplora_train.config.errors import RunFailure
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.classify import evaluate_labels
from toplora_train.jobs.material import Material, total_steps
from toplora_train.train.checkpoint import adapter_tensors
from toplora_train.train.record import StepRecord


@dataclass(frozen=True)
class JudgedEpoch:
    """The score on the held-out rows after a step."""

    step: int
    epoch: float
    value: float
    metric: str
    rows: int

    def __str__(self) -> str:
        return f"epoch {self.epoch:g}: {self.metric} {self.value:.1%} on {self.rows} held-out rows"


class Selection:
    """Judges the adapter at the end of every epoch and keeps the tensors of the best.

    Args:
        folder: Where it is kept, ``checkpoints/selected``.
        judge: Gives the score of a model on the held-out rows; more is better.
        metric: What that score is.
        rows: How many rows are held out.
        total_steps: The last step, which is judged too if it ends no epoch.
        resumed_step: The step that a resumed run goes on from. Later epochs are judged again, and
            alike.
        silent: Whether to write nothing, in all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        judge: Callable[[PeftModel], float],
        *,
        metric: str,
        rows: int,
        total_steps: int,
        resumed_step: int,
        silent: bool,
    ) -> None:
        self.folder = folder
        self.metric = metric
        self.rows = rows
        self.epochs = [one for one in _read(folder / "epochs.json") if one.step <= resumed_step]
        self._judge = judge
        self._total_steps = total_steps
        self._silent = silent

    @property
    def best(self) -> JudgedEpoch:
        """The best epoch, of equals the first."""
        return max(self.epochs, key=lambda one: (one.value, -one.step))

    @property
    def best_is_last(self) -> bool:
        """Whether nothing is to be restored."""
        return self.best is self.epochs[-1]

    def to_dict(self) -> dict[str, Any]:
        """What the report says of the choice."""
        judged = [{"step": e.step, "epoch": e.epoch, "value": e.value} for e in self.epochs]
        return {
            "metric": self.metric,
            "rows": self.rows,
            "step": self.best.step,
            "epoch": self.best.epoch,
            "epochs": judged,
        }

    def consider(self, model: PeftModel, record: StepRecord) -> JudgedEpoch | None:
        """Judge the model if the step ends an epoch or the run, and keep it if it is the best.

        Raises:
            RunFailure: It could not be written.
        """
        if record.step != self._total_steps and not float(record.epoch).is_integer():
            return None
        judged = JudgedEpoch(record.step, record.epoch, self._judge(model), self.metric, self.rows)
        self.epochs.append(judged)
        if not self._silent:
            self._keep(model if self.best is judged else None)
        return judged

    def restore(self, model: PeftModel) -> None:
        """Put the tensors of the best epoch into the model."""
        set_peft_model_state_dict(model, load_file(self.folder / "adapter.safetensors"))

    def _keep(self, model: PeftModel | None) -> None:
        aside = self.folder / ".writing"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if model is not None:
                save_file(adapter_tensors(model), aside)
                aside.replace(self.folder / "adapter.safetensors")
            aside.write_text(json.dumps([asdict(one) for one in self.epochs], indent=2))
            aside.replace(self.folder / "epochs.json")
        except (OSError, SafetensorError) as error:
            raise RunFailure(
                f"the best epoch's adapter could not be written to {self.folder} ({error}); make "
                "room, then go on with resume=auto"
            ) from error


def select_epochs(
    config: RunConfig,
    material: Material,
    folder: Path,
    *,
    resumed_step: int,
    autocast_dtype: torch.dtype | None,
    silent: bool,
) -> Selection | None:
    """The selection of a run that trains a head and holds rows out; None for any other."""
    task = head_task(config)
    if task is None or not material.validation_rows:
        return None

    def judge(model: PeftModel) -> float:
        score, _ = evaluate_labels(
            model,
            material.tokenizer,
            material.validation_rows,
            choices=task.choices,
            metric=task.metric,
            max_length=config.dataset.max_length,
            overflow=config.dataset.overflow,
            batch_size=config.evaluation.batch_size,
            autocast_dtype=autocast_dtype,
        )
        return score.value

    return Selection(
        folder,
        judge,
        metric=task.metric,
        rows=len(material.validation_rows),
        total_steps=total_steps(config, len(material.train)),
        resumed_step=resumed_step,
        silent=silent,
    )


def fingerprint(model: PeftModel) -> str:
    """What tells the adapter's tensors from others."""
    return hashlib.sha256(save(adapter_tensors(model))).hexdigest()


def _read(path: Path) -> list[JudgedEpoch]:
    return [JudgedEpoch(**one) for one in json.loads(path.read_text())] if path.is_file() else []
