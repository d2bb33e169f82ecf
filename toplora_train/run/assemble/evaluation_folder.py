"""``RUN/evaluations/NAME/``: a later evaluation of a run, with its own report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_json_atomically
from toplora_train.config.names import LONGEST, plain_name
from toplora_train.report.gain import read_gain
from toplora_train.report.pages import write_pages
from toplora_train.report.record import EVALUATIONS, TaskScore, completed_report, with_scores

REPORT = "report.json"


def open_folder(run_dir: Path, name: str) -> Path:
    """The folder of an evaluation that is not finished; it is made with the first file in it.

    Raises:
        UserError: It is finished, or its name is not a plain one.
    """
    try:
        plain_name(name)
    except ValueError as error:
        raise UserError(f"name={name[:LONGEST]} {error}") from error
    folder = run_dir / EVALUATIONS / name
    if (folder / REPORT).is_file():
        raise UserError(f"{folder} holds a finished evaluation; choose another name=NAME")
    return folder


def write_evaluation(
    folder: Path,
    run_dir: Path,
    tasks: Mapping[str, TaskScore],
    *,
    contamination: Mapping[str, Any] | None,
    note: str,
    **how: str,
) -> dict[str, Any]:
    """Write the run's report with its scores replaced by those of an evaluation; return it.

    Args:
        folder: The evaluation's, with its ``predictions/``.
        run_dir: The run.
        tasks: The scores.
        contamination: As in the report.
        note: What the report says about the evaluation.
        how: ``command``, ``protocol`` and ``protocol_hash`` of the report.
    """
    run = completed_report(run_dir)
    with_base = all(score.base_value is not None for score in tasks.values())
    gain = read_gain(folder / "predictions", list(tasks)) if with_base else None
    report = with_scores(run, tasks, gain) | {
        **how,
        "data": run["data"] | {"contamination": contamination},
        "notes": [note],
    }
    write_pages(folder, report)
    write_json_atomically(folder / REPORT, report)
    return report
