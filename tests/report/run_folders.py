"""Folders of finished runs, made up."""

import dataclasses
from pathlib import Path

from tests.jobs.conftest import tiny_run
from tests.report.made_up import made_up_report, task_score
from toplora_train.config.resolved import write_config
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.report.record import write_report


def run_folder(
    folder: Path,
    *,
    adapter: str = "lora",
    lr: float = 1e-3,
    seed: int = 1,
    right: dict[str, list[bool]] | None = None,
    metric: str = "accuracy",
    **changes,
) -> Path:
    right = right or {"t": [True, False] * 10}
    folder.mkdir(parents=True)
    config = tiny_run(folder, adapter, seed=seed)
    config = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=lr))
    write_config(config, folder / "config.yaml")
    for task, answers in right.items():
        predictions = [
            Prediction(f"{task}-{i}", f"{task} {i}?", "x", "x", "x" if yes else "y", yes)
            for i, yes in enumerate(answers)
        ]
        write_predictions(folder / "predictions" / f"{task}.jsonl", predictions)
    tasks = {
        task: dataclasses.replace(task_score(sum(a), len(a), 0), metric=metric)
        for task, a in right.items()
    }
    write_report(folder / "report.json", made_up_report(tasks=tasks, seed=seed, **changes))
    return folder
