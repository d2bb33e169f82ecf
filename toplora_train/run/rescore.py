"""Rescore stored outputs by another protocol's rules: no model, no rows, no heavy imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.predictions import Prediction, read_predictions, write_predictions
from toplora_train.evaluation.protocol import Protocol, find_protocol
from toplora_train.evaluation.run_evaluation import count
from toplora_train.evaluation.statistics import majority_share
from toplora_train.report.record import TaskScore, completed_report, protocol_hash
from toplora_train.run.assemble.evaluation_folder import open_folder, write_evaluation


def rescore(
    config: RunConfig, run_dir: Path, *, protocol_name: str, name: str, command: str
) -> tuple[Path, dict[str, Any]]:
    """Extract and score the answers in a run's stored outputs again.

    The outputs do not change: they were prompted and decoded as in the run. The protocol hash
    combines the run's own with the name of the rules, so such scores are only compared with others
    of the same kind.

    Args:
        config: The run's configuration.
        run_dir: The run.
        protocol_name: The protocol whose rules to apply.
        name: The evaluation's folder below ``run_dir/evaluations``.
        command: The command line, for the report.

    Returns:
        The folder and the report in it.

    Raises:
        UserError: The run or protocol does not exist, or the answers were not generated.
    """
    protocol = find_protocol(protocol_name)
    run = completed_report(run_dir)
    rules = {task: (how.extraction, tuple(how.choices)) for task, how in config.task.items()}
    if config.dataset.test is not None:
        rules["test"] = (config.dataset.test_extraction, ())
    tasks: dict[str, TaskScore] = {}
    tuned: dict[str, list[Prediction]] = {}
    base: dict[str, list[Prediction]] = {}
    for task, before in run["tasks"].items():
        if before.get("kind", "generate") != "generate":
            raise UserError(
                f"task {task}: its answers were not generated (kind {before['kind']}), so there is "
                "no text to rescore"
            )
        extraction, choices = rules[task]
        stored = run_dir / "predictions" / f"{task}.jsonl"
        of_base = run_dir / "predictions" / f"{task}.base.jsonl"
        tuned[task] = apply_rules(protocol, read_predictions(stored), extraction, choices)
        if before["base_value"] is not None:
            base[task] = apply_rules(protocol, read_predictions(of_base), extraction, choices)
        tasks[task] = TaskScore.of(
            count(tuned[task]),
            count(base[task]) if task in base else None,
            majority_value=majority_share([one.label for one in tuned[task]]),
        )
    if not tasks:
        raise UserError(f"{run_dir} has no scores, so there are no answers to rescore")
    folder = open_folder(run_dir, name)
    for suffix, predictions in (("", tuned), (".base", base)):
        for task, found in predictions.items():
            write_predictions(folder / "predictions" / f"{task}{suffix}.jsonl", found)
    return folder, write_evaluation(
        folder,
        run_dir,
        tasks,
        command=command,
        protocol=f"{run['protocol']}, read by the rules of {protocol.name}",
        protocol_hash=protocol_hash({}, 0, f"{run['protocol_hash']} by {protocol.name}", None),
        contamination=run["data"]["contamination"],
        note=(
            f"The outputs are the run's own; answers were extracted and scored by the rules of "
            f"{protocol.name}, but prompts and decoding were not that protocol's."
        ),
    )


def apply_rules(
    protocol: Protocol, predictions: Sequence[Prediction], extraction: str, choices: Sequence[str]
) -> list[Prediction]:
    """The same outputs with the answers that the protocol extracts from them."""
    found = []
    for prediction in predictions:
        answer = protocol.extract(prediction.output, extraction, choices)
        try:
            correct = protocol.is_correct(answer, prediction.label, extraction)
        except UserError as error:
            raise UserError(f"row {prediction.id}: {error}") from None
        found.append(replace(prediction, prediction=answer, correct=correct))
    return found
