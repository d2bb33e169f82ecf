"""``RUN/evaluations/NAME/``: a later evaluation of a run, with a report like the run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.gain import read_gain
from toplora_train.report.json_file import write_json_atomically
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.pages import write_pages
from toplora_train.report.record import TaskScore, read_report, with_scores

REPORT = "report.json"


def open_folder(run_dir: Path, name: str) -> Path:
    """The folder of an evaluation that is not finished.

    Raises:
        UserError: it is finished, or its name is no plain one.
    """
    if Path(name).name != name or name in (".", ".."):
        raise UserError(f"name={name} must be a plain name, without folders")
    folder = run_dir / "evaluations" / name
    if (folder / REPORT).is_file():
        raise UserError(f"{folder} holds a finished evaluation; give this one another name=NAME")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def finished_report(run_dir: Path) -> dict[str, Any]:
    """The report of a run that is completed.

    Raises:
        UserError: there is none.
    """
    report = read_report(run_dir / REPORT)
    if report.get("status") != "completed":
        raise UserError(
            f"{run_dir} is {report.get('status', 'not finished')}; only a completed run has an "
            "adapter to evaluate"
        )
    return report


def write_evaluation(
    folder: Path,
    run_dir: Path,
    *,
    command: str,
    protocol: str,
    protocol_hash: str,
    tasks: Mapping[str, TaskScore],
    predictions: Mapping[str, Sequence[Prediction]],
    contamination: Mapping[str, Any] | None,
    note: str,
) -> dict[str, Any]:
    """Write the run's report with these scores in the place of its own; return it."""
    run = finished_report(run_dir)
    with_base = all(score.base_value is not None for score in tasks.values())
    gain = read_gain(folder / "predictions", list(tasks)) if with_base else None
    report = with_scores(run, tasks, gain) | {
        "command": command,
        "protocol": protocol,
        "protocol_hash": protocol_hash,
        "data": run["data"] | {"contamination": contamination},
        "notes": [note],
    }
    metrics = run_dir / "metrics.jsonl"
    write_pages(folder, report, read_metrics(metrics) if metrics.is_file() else [], predictions)
    write_json_atomically(folder / REPORT, report)
    return report
