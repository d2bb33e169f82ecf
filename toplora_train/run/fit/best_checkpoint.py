"""Model selection: keep the adapter that scores best on held-out rows of the train set.

The metric is of :mod:`toplora_train.run.fit.selection_metric`. Selecting on the dev set itself, as
is often done, makes its score too good; so the test sets are evaluated afterwards only, once with
the last and once with the selected adapter.

    checkpoints/selected/
        adapter.safetensors     the tensors of the best so far
        judged.json             every evaluation: step, epoch, value
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import RunConfig
from toplora_train.run.fit.selection_metric import (
    VALIDATION_LOSS,
    SelectionMetric,
    find_selection_metric,
    selects_by_loss,
)
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.checkpoint import adapter_tensors
from toplora_train.train.record import StepRecord


@dataclass(frozen=True)
class Candidate:
    """The score on the held-out rows after a step."""

    step: int
    epoch: float
    value: float


class BestCheckpoint:
    """Judges the adapter as it is trained and keeps the tensors of the best.

    Args:
        folder: Where it is kept, ``checkpoints/selected``.
        judge: Gives the score of a model on the held-out rows.
        metric: What that score is: the validation loss, of which less is better, or a task's
            metric.
        rows: How many rows are held out.
        patience: After so many judgements without a better one it is enough; None never.
        resumed_step: The step that a resumed run goes on from. Later steps are judged again, and
            alike.
        silent: Whether to write nothing, in all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        judge: SelectionMetric,
        *,
        metric: str,
        rows: int,
        patience: int | None,
        resumed_step: int,
        silent: bool,
    ) -> None:
        self.folder = folder
        self.metric = metric
        self.rows = rows
        self.judged = [one for one in _read(folder / "judged.json") if one.step <= resumed_step]
        self._judge = judge
        self._patience = patience
        self._silent = silent

    @property
    def best(self) -> Candidate:
        """The best, of equals the first."""
        sign = -1 if self.metric == VALIDATION_LOSS else 1
        return max(self.judged, key=lambda one: (sign * one.value, -one.step))

    @property
    def best_is_last(self) -> bool:
        """Whether nothing is to be restored."""
        return self.best is self.judged[-1]

    @property
    def evals_since_best(self) -> int:
        """The number of judgements since the best."""
        return len(self.judged) - 1 - self.judged.index(self.best) if self.judged else 0

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self._patience is not None and self.evals_since_best >= self._patience

    def to_dict(self) -> dict[str, Any]:
        """What the report says of the choice."""
        return {
            "metric": self.metric,
            "rows": self.rows,
            "step": self.best.step,
            "epoch": self.best.epoch,
            "stopped_early": self.exhausted,
            "epochs": [asdict(one) for one in self.judged],
        }

    def consider(self, model: PeftModel, record: StepRecord) -> str | None:
        """Judge the model if it is its turn, keep it if it is the best, and say so in a line.

        Of a model that is shared out all processes have to ask.

        Raises:
            RunFailure: It could not be written.
        """
        value = self._judge(model, record)
        if value is None:
            return None
        judged = Candidate(record.step, record.epoch, value)
        self.judged.append(judged)
        tensors = adapter_tensors(model) if self.best is judged else None
        if not self._silent:
            self._keep(tensors)
        enough = f"; {self.evals_since_best} without a better one, enough" if self.exhausted else ""
        return (
            f"step {judged.step} (epoch {judged.epoch:.4g}): {self.metric} {self.shown(judged)} on "
            f"{self.rows} held-out rows{enough}"
        )

    def shown(self, judged: Candidate) -> str:
        """A score as people read it."""
        is_loss = self.metric == VALIDATION_LOSS
        return f"{judged.value:.4f}" if is_loss else f"{judged.value:.1%}"

    def restore(self, model: PeftModel) -> None:
        """Put the tensors of the best into the model."""
        set_peft_model_state_dict(model, load_file(self.folder / "adapter.safetensors"))

    def _keep(self, tensors: Mapping[str, Tensor] | None) -> None:
        aside = self.folder / ".writing"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if tensors is not None:
                save_file(dict(tensors), aside)
                aside.replace(self.folder / "adapter.safetensors")
            aside.write_text(json.dumps([asdict(one) for one in self.judged], indent=2))
            aside.replace(self.folder / "judged.json")
        except (OSError, SafetensorError) as error:
            raise RunFailure(
                f"the best adapter could not be written to {self.folder} ({error}); make room, "
                "then go on with resume=auto"
            ) from error


def selects(config: RunConfig) -> bool:
    """Whether the best adapter is kept: where that is asked for, and with a head by default.

    Raises:
        UserError: what is asked for cannot be judged.
    """
    trainer, head = config.trainer, head_task(config)
    held_out = config.dataset.validation_rows or config.dataset.validation_share
    if trainer.select == "last" and trainer.patience is not None:
        raise UserError(
            "trainer.patience waits for a better adapter than the best, which trainer.select=last "
            "does not keep; use trainer.select=best"
        )
    asked = trainer.select == "best" or trainer.patience is not None
    why = "trainer.select=best" if trainer.select == "best" else "trainer.patience"
    if asked and not held_out:
        raise UserError(
            f"{why} judges by rows that are held out: set dataset.validation_rows or "
            "dataset.validation_share"
        )
    if asked and (head is None or selects_by_loss(config)) and not trainer.eval_every:
        raise UserError(f"{why} judges the held-out rows every trainer.eval_every steps: set it")
    selected = asked or (trainer.select is None and head is not None and bool(held_out))
    if trainer.select_by is not None and not selected:
        raise UserError(
            f"trainer.select_by={trainer.select_by} says how the best adapter is found, and no "
            "best one is kept; set trainer.select=best and hold rows out (dataset.validation_rows)"
        )
    return selected


def select(
    config: RunConfig,
    run_data: RunData,
    folder: Path,
    *,
    resumed_step: int,
    autocast_dtype: torch.dtype | None,
    silent: bool,
) -> BestCheckpoint | None:
    """The selection of a run that keeps the best adapter; None for any other.

    Raises:
        UserError: the held-out rows cannot be judged as is asked for.
    """
    if not selects(config) or not run_data.validation_rows:
        return None
    judge, metric = find_selection_metric(config, run_data, autocast_dtype)
    return BestCheckpoint(
        folder,
        judge,
        metric=metric,
        rows=len(run_data.validation_rows),
        patience=config.trainer.patience,
        resumed_step=resumed_step,
        silent=silent,
    )


def fingerprint(model: PeftModel) -> str:
    """What tells the adapter's tensors from others."""
    return hashlib.sha256(save(adapter_tensors(model))).hexdigest()


def _read(path: Path) -> list[Candidate]:
    return [Candidate(**one) for one in json.loads(path.read_text())] if path.is_file() else []
