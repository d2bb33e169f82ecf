"""A finished run without training: the files that later commands read."""

from pathlib import Path

from tests.report.made_up import made_up_report, task_score
from tests.run.conftest import tiny_run
from toplora_train.config.resolved import write_config
from toplora_train.config.schema import RunConfig
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.report.record import write_report


def prediction(name: str, output: str, label: str) -> Prediction:
    return Prediction(name, f"{name}?", output, output, label, output == label)


def finished_run(folder: Path, outputs: dict[str, str], label: str = "12") -> RunConfig:
    """The task is ``arithmetic``; the base model says "none" to everything."""
    config = tiny_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(config, folder / "config.yaml")
    tuned = [prediction(name, output, label) for name, output in outputs.items()]
    write_predictions(folder / "predictions" / "arithmetic.jsonl", tuned)
    base = [prediction(name, "none", label) for name in outputs]
    write_predictions(folder / "predictions" / "arithmetic.base.jsonl", base)
    tasks = {"arithmetic": task_score(0, len(outputs), 0)}
    write_report(folder / "report.json", made_up_report(tasks=tasks))
    return config
