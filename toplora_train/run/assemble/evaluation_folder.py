"""``RUN/evaluations/NAME/``: a later evaluation of a run, with its own report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_json_atomically
from toplora_train.config.names import LONGEST, plain_name
from toplora_train.report.gain import read_gain
from toplora_train.report.pages import write_pages
from toplora_train.report.record import TaskScore, completed_report, with_scores

REPORT = "report.json"


def open_folder(run_dir: Path, name: str) -> Path:
    """The folder of an evaluation that is not finished.

    Raises:
        UserError: It is finished, or its name is not a plain one.
    """
    try:
        plain_name(name)
    except ValueError as error:
        raise UserError(f"name={name[:LONGEST]} {error}") from error
    folder = run_dir / "evaluations" / name
    if (folder / REPORT).is_file():
        raise UserError(f"{folder} holds a finished evaluation; choose another name=NAME")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Evaluation:
    """Scores by task, how they were obtained, and a note for the report."""

    command: str
    protocol: str
    protocol_hash: str
    tasks: Mapping[str, TaskScore]
    contamination: Mapping[str, Any] | None
    note: str


def write_evaluation(folder: Path, run_dir: Path, evaluation: Evaluation) -> dict[str, Any]:
    """Write the run's report with its scores replaced by the evaluation's; return it."""
    run, tasks = completed_report(run_dir), evaluation.tasks
    with_base = all(score.base_value is not None for score in tasks.values())
    gain = read_gain(folder / "predictions", list(tasks)) if with_base else None
    report = with_scores(run, tasks, gain) | {
        "command": evaluation.command,
        "protocol": evaluation.protocol,
        "protocol_hash": evaluation.protocol_hash,
        "data": run["data"] | {"contamination": evaluation.contamination},
        "notes": [evaluation.note],
    }
    write_pages(folder, report)
    write_json_atomically(folder / REPORT, report)
    return report
