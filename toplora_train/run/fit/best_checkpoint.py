"""Model selection: keep the adapter that scores best on held-out rows of the train set.

:mod:`toplora_train.run.fit.selection_metric` defines the metric. Selecting on the dev set itself,
as is often done, biases its score upwards; so the test sets are only evaluated after training, with
the last and with the selected adapter.

    checkpoints/selected/
        adapter-00000020.safetensors    the best tensors so far (step 20), and as of each checkpoint
        judged.json                     every validation: step, epoch, value
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save, save_file
from torch import Tensor

from toplora_train.config.errors import RunFailure, UserError
from toplora_train.config.folders import checkpoint_folders, step_of
from toplora_train.config.kinds import head_task, selects_by_loss
from toplora_train.config.reading import read_text, validate_json
from toplora_train.config.schema import RunConfig
from toplora_train.models.tensors import read_tensors
from toplora_train.report.held_out import VALIDATION_LOSS
from toplora_train.run.fit.selection_metric import (
    SelectionMetric,
    find_selection_metric,
)
from toplora_train.run.prepare.run_data import RunData
from toplora_train.train.checkpoint import adapter_tensors
from toplora_train.train.record import StepRecord


@dataclass(frozen=True)
class Candidate:
    """A step's score on the held-out rows."""

    step: int
    epoch: float
    value: float


class BestCheckpoint:
    """Scores the adapter during training and keeps the best tensors.

    Args:
        folder: Where they are kept, ``checkpoints/selected``.
        evaluate: Scores a model on the held-out rows.
        metric: The metric's name: the validation loss (lower is better) or a task's metric.
        rows: The number of held-out rows.
        patience: Stop after this many evaluations without improvement; None never stops.
        resumed_step: The step a resumed run continues from; later steps are evaluated again, and
            may have other results on other hardware.
        silent: Write nothing, on all ranks but 0.
    """

    def __init__(
        self,
        folder: Path,
        evaluate: SelectionMetric,
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
        self._evaluate = evaluate
        self._patience = patience
        self._silent = silent

    @property
    def best(self) -> Candidate:
        """The best candidate; the first of equals."""
        return self._best_of(self.judged)

    @property
    def best_is_last(self) -> bool:
        """Whether the last candidate is the best, so that nothing needs restoring."""
        return self.best is self.judged[-1]

    @property
    def evals_since_best(self) -> int:
        """The number of evaluations since the best."""
        return len(self.judged) - 1 - self.judged.index(self.best) if self.judged else 0

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self.evals_since_best >= self._patience

    def to_dict(self) -> dict[str, Any]:
        """The selection as the report records it."""
        return {
            "metric": self.metric,
            "rows": self.rows,
            "step": self.best.step,
            "epoch": self.best.epoch,
            "stopped_early": self.exhausted,
            "epochs": [asdict(one) for one in self.judged],
        }

    def consider(self, model: PeftModel, record: StepRecord) -> str | None:
        """Evaluate the model if due, keep it if it is the best, and return a line for the log.

        With a sharded model, call it on every rank.

        Raises:
            RunFailure: The adapter could not be written.
        """
        value = self._evaluate(model, record)
        if value is None:
            return None
        candidate = Candidate(record.step, record.epoch, value)
        self.judged.append(candidate)
        tensors = adapter_tensors(model) if self.best is candidate else None
        if not self._silent:
            self._keep(tensors)
        stop = f"; no improvement in {self.evals_since_best}, stopping" if self.exhausted else ""
        return (
            f"step {candidate.step} (epoch {candidate.epoch:.4g}): {self.metric} "
            f"{self.shown(candidate)} on {self.rows} held-out rows{stop}"
        )

    def shown(self, candidate: Candidate) -> str:
        """A score, formatted."""
        is_loss = self.metric == VALIDATION_LOSS
        return f"{candidate.value:.4f}" if is_loss else f"{candidate.value:.1%}"

    def restore(self, model: PeftModel) -> None:
        """Load the best tensors into the model."""
        set_peft_model_state_dict(model, read_tensors(self._file(self.best)))

    def _keep(self, tensors: Mapping[str, Tensor] | None) -> None:
        aside = self.folder / ".writing"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if tensors is not None:
                save_file(dict(tensors), aside)
                aside.replace(self._file(self.best))
            aside.write_text(json.dumps([asdict(one) for one in self.judged], indent=2))
            aside.replace(self.folder / "judged.json")
            self._delete_unneeded()
        except (OSError, SafetensorError) as error:
            raise RunFailure(
                f"the best adapter could not be written to {self.folder} ({error}); free disk "
                "space, then continue with resume=auto"
            ) from error

    def _best_of(self, judged: Sequence[Candidate]) -> Candidate:
        sign = -1 if self.metric == VALIDATION_LOSS else 1
        return max(judged, key=lambda one: (sign * one.value, -one.step))

    def _file(self, candidate: Candidate) -> Path:
        return self.folder / f"adapter-{candidate.step:08d}.safetensors"

    def _delete_unneeded(self) -> None:
        """Keep the best tensors as of now, and of each checkpoint from which a run may resume."""
        ends = [step_of(path) for path in checkpoint_folders(self.folder.parent)]
        until = [[one for one in self.judged if one.step <= end] for end in ends]
        needed = {self._file(self._best_of(judged)) for judged in (self.judged, *until) if judged}
        for path in self.folder.glob("adapter-*.safetensors"):
            if path not in needed:
                path.unlink(missing_ok=True)


def selects(config: RunConfig) -> bool:
    """Whether the best adapter is kept: if the settings say so, and by default with a head.

    Raises:
        UserError: The settings do not allow a selection.
    """
    trainer, head = config.trainer, head_task(config)
    held_out = config.dataset.validation_rows or config.dataset.validation_share
    if trainer.select == "last" and trainer.patience is not None:
        raise UserError(
            "trainer.patience stops when the best adapter no longer improves, but "
            "trainer.select=last keeps no best one; use trainer.select=best"
        )
    wanted = trainer.select == "best" or trainer.patience is not None
    why = "trainer.select=best" if trainer.select == "best" else "trainer.patience"
    if wanted and not held_out:
        raise UserError(
            f"{why} needs held-out rows: set dataset.validation_rows or dataset.validation_share"
        )
    selected = wanted or (trainer.select is None and head is not None and bool(held_out))
    if selected and (head is None or selects_by_loss(config)) and not trainer.eval_every:
        why = why if wanted else "trainer.select_by=loss"
        raise UserError(f"{why} validates every trainer.eval_every steps: set it")
    if trainer.select_by is not None and not selected:
        raise UserError(
            f"trainer.select_by={trainer.select_by} has no effect, because no best adapter is "
            "kept; set trainer.select=best and hold out rows (dataset.validation_rows)"
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
        UserError: The held-out rows cannot be scored by ``trainer.select_by``.
    """
    if not selects(config) or not run_data.validation_rows:
        return None
    evaluate, metric = find_selection_metric(config, run_data, autocast_dtype)
    return BestCheckpoint(
        folder,
        evaluate,
        metric=metric,
        rows=len(run_data.validation_rows),
        patience=config.trainer.patience,
        resumed_step=resumed_step,
        silent=silent,
    )


def fingerprint(model: PeftModel) -> str:
    """The SHA-256 of the adapter's tensors."""
    return hashlib.sha256(save(adapter_tensors(model))).hexdigest()


def _read(path: Path) -> list[Candidate]:
    """The earlier candidates.

    Raises:
        UserError: The file holds something else.
    """
    return validate_json(list[Candidate], read_text(path), str(path)) if path.is_file() else []
