"""Finished runs for comparison: report, settings and predictions."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.resolved import flat, read_config
from toplora_train.evaluation.metrics import Values, as_numbers
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.evaluation.row_scores import RowScores, other_metric, share_right
from toplora_train.report.jobs import TUNING, read_jobs, superseded, unfinished_runs
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.record import completed_report, read_report, run_of

# Settings that do not define the method: seeds, locations, output and evaluation.
NOT_OF_THE_METHOD = (
    "seed",
    "output_dir",
    "data_root",
    "config_dirs",
    "resume",
    "plan",
    "command",
    "recipe",
    "tracker",
    "launch",
    "task",
    "evaluation",
    "forgetting",
    "report",
)

WEIGHTS = "adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class Run:
    """A finished run, a later evaluation of it, or runs on one task each (``parts``) as one."""

    folder: Path
    home: Path  # the run that the evaluation is of; else the folder itself
    report: Mapping[str, Any]
    settings: Mapping[str, Any]  # those that define the method, by dotted key
    choices: Mapping[str, Sequence[str]]  # by task, the class names by class number
    limit: int | None  # of the rows per task
    command: str  # that trained it
    head_of: tuple[str, ...] = ()  # the tasks that a head was trained on
    step_seconds: float | None = None  # the median time of a step
    adapter_bytes: int | None = None
    parts: tuple[Run, ...] = ()
    archived: Callable[[str], list[Prediction]] | None = None  # reads predictions without a folder

    def predictions(self, task: str) -> list[Prediction]:
        """The stored predictions on a task."""
        of_task = self._with(task)
        return (of_task.archived or of_task._read_predictions)(task)

    def numbers(self, task: str, answers: Sequence[str | None]) -> Values:
        """Convert answers to a classification or regression task to numbers.

        Raises:
            UserError: An answer is not a class of the task.
        """
        try:
            return as_numbers([str(answer) for answer in answers], self.choices.get(task, ()))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self._with(task)._file(task)}: {error} is not a valid label of the task; "
                "evaluate again"
            ) from error

    def _with(self, task: str) -> Run:
        """The part that was evaluated on the task, or the run itself."""
        return next((part for part in self.parts if task in part.report["tasks"]), self)

    def _file(self, task: str) -> Path:
        return self.folder / "predictions" / f"{task}.jsonl"

    def _read_predictions(self, task: str) -> list[Prediction]:
        return read_predictions(self._file(task))


def task_scores(runs: Sequence[Run], task: str, metric: str) -> RowScores:
    """The runs' scores on a task and their covariance over rows, from the stored predictions.

    Args:
        runs: Runs that were evaluated on the same rows.
        task: The task's name.
        metric: See :data:`toplora_train.evaluation.metrics.METRICS`.

    Raises:
        UserError: A run's predictions are for different rows than the first run's.
    """
    first = runs[0].predictions(task)
    ids = [row.id for row in first]
    found: list[Values] = []
    for run in runs:
        predictions = first if run is runs[0] else run.predictions(task)
        if [row.id for row in predictions] != ids:
            raise UserError(
                f"{run.folder}: its stored predictions on {task} are for different rows than those "
                f"of {runs[0].folder}; evaluate it again: {evaluation_command(run, 'name=again')}"
            )
        if metric == "accuracy":
            found.append(np.array([row.correct for row in predictions], dtype=np.float64))
        else:
            found.append(run.numbers(task, [row.prediction for row in predictions]))
    questions = [row.prompt for row in first]
    if metric == "accuracy":
        return share_right(np.array(found, dtype=bool), questions)
    labels = runs[0].numbers(task, [row.label for row in first])
    return other_metric(metric, np.array(found), labels, questions)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs; a folder of runs, such as a sweep's, stands for all completed runs in it.

    Runs of a study at a learning rate that it no longer chooses are left out.

    Raises:
        UserError: A folder contains no completed run, or a run given by itself is not completed.
    """
    run_dirs: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder or archive")
        if (folder / "report.json").is_file():
            run_dirs.append(folder)
            continue
        inside = _completed(folder, "*/report.json")
        unfinished = [] if inside else unfinished_runs([folder])
        for one in sorted(unfinished, key=lambda one: not one.command)[:1]:
            tuned = len(_completed(folder, f"{TUNING}/*/report.json"))
            raise UserError(
                f"{folder}: none of its runs is completed"
                + (f" except {tuned} to choose learning rates" if tuned else "")
                + f"; {one.name}: {one.state}"
                + (f" ({one.reason})" if one.reason else "")
                + (f"; continue with {one.command}" if one.command else "")
            )
        if not inside:
            raise UserError(f"{folder}: not a run directory: it has no report.json")
        run_dirs += inside
    return [_read(run_dir) for run_dir in dict.fromkeys(path.resolve() for path in run_dirs)]


def find_tuning_runs(folders: Sequence[Path]) -> list[Run]:
    """The completed runs by which ``study=lr_per_adapter`` chose learning rates.

    Args:
        folders: Studies; other folders have none.
    """
    found = [_completed(folder, f"{TUNING}/*/report.json") for folder in folders]
    return [_read(run_dir.resolve()) for run_dirs in found for run_dir in run_dirs]


def _completed(folder: Path, reports: str) -> list[Path]:
    """The run directories of completed runs in a folder; of a study, those that still count."""
    left_out = {folder / one for one in superseded(read_jobs(folder))}
    return sorted(
        path.parent
        for path in folder.glob(reports)
        if path.parent not in left_out and read_report(path).get("status") == "completed"
    )


def _read(folder: Path) -> Run:
    report = completed_report(folder)
    home = run_of(folder)
    config = read_config(home / "config.yaml")
    settings = {
        key: value
        for key, value in flat(config).items()
        if key.partition(".")[0] not in NOT_OF_THE_METHOD and not key.startswith("dataset.test")
    }
    choices = {name: task.choices for name, task in config.task.items()}
    limit = _limit(report["command"], config.evaluation.limit)
    trained = report if home == folder else read_report(home / "report.json")
    head_of = tuple(sorted(config.task)) if head_task(config) else ()
    return Run(
        folder=folder,
        home=home,
        report=report,
        settings=settings,
        choices=choices,
        limit=limit,
        command=trained["command"],
        head_of=head_of,
        step_seconds=_step_seconds(home / "metrics.jsonl"),
        adapter_bytes=weights.stat().st_size if (weights := home / WEIGHTS).is_file() else None,
    )


def _step_seconds(path: Path) -> float | None:
    """The median seconds per step between logged steps; the first ones are a warm-up."""
    rows = read_metrics(path) if path.is_file() else []
    times = [
        (row["seconds"] - before["seconds"]) / (row["step"] - before["step"])
        for before, row in pairwise(rows)
        if row["step"] > before["step"]
    ]
    return median(times) if times else None


def evaluation_command(run: Run, *words: str) -> str:
    """The ``toplora-eval`` of a run, with the ``--config-dir`` that it was trained with."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    own = parser.parse_known_args(shlex.split(run.command))[0].config_dir
    folder = [] if own is None else [f"config_dir={own}"]
    return shlex.join(["toplora-eval", f"run={run.home}", *words, *folder])


def _limit(command: str, of_training: int | None) -> int | None:
    """The rows per task of an evaluation: the last ``limit=`` of ``toplora-eval``, or the run's."""
    program, *words = shlex.split(command) or [""]
    given = [word.removeprefix("limit=") for word in words if word.startswith("limit=")]
    if Path(program).name != "toplora-eval" or not given:
        return of_training
    return int(given[-1]) if given[-1].isdecimal() else None
