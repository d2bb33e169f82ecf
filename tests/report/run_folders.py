"""Synthetic folders of finished runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from tests.report.made_up import made_up_report, task_score
from tests.run.conftest import tiny_run
from toplora_train.config.keywords import compose_run
from toplora_train.config.resolved import read_config, write_config
from toplora_train.config.schema import TaskSettings
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.report.metrics_file import KEYS
from toplora_train.report.record import write_report


def run_folder(
    folder: Path,
    *,
    adapter: str = "lora",
    lr: float = 1e-3,
    seed: int = 1,
    right: dict[str, list[bool]] | None = None,
    metric: str = "accuracy",
    more: dict[str, Any] | None = None,
    limit: int | None = None,
    parameters: int = 12_345,
    held_out: float | None = None,
    step_seconds: float | None = None,
    kind: str = "generate",
    **changes,
) -> Path:
    right = right or {"t": [True, False] * 10}
    folder.mkdir(parents=True)
    config = tiny_run(folder, adapter, seed=seed)
    classes = [TaskSettings(name=task, source="", choices=["y", "x"], kind=kind) for task in right]
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, lr=lr),
        task=dict(zip(right, classes, strict=True)),
        evaluation=dataclasses.replace(config.evaluation, limit=limit),
    )
    write_config(config, folder / "config.yaml")
    for task, answers in right.items():
        predictions = [
            Prediction(f"{task}-{i}", f"{task} {i}?", "", *_answer(i, yes), yes)
            for i, yes in enumerate(answers)
        ]
        write_predictions(folder / "predictions" / f"{task}.jsonl", predictions)
    tasks = {
        task: dataclasses.replace(
            task_score(sum(a), len(a), 0), metric=metric, more=more or {}, kind=kind
        )
        for task, a in right.items()
    }
    report = made_up_report(tasks=tasks, seed=seed, **changes)
    report = dataclasses.replace(
        report,
        adapter=dataclasses.replace(report.adapter, trainable_parameters=parameters),
        train=dataclasses.replace(report.train, validation_loss=held_out),
    )
    write_report(folder / "report.json", report)
    if step_seconds is not None:
        rows = [
            dict.fromkeys(KEYS, 0.0) | {"step": step, "seconds": step * step_seconds}
            for step in range(1, 5)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def published_run(
    folder: Path, adapter: str, r: int, model: str, right: dict[str, list[bool]], **changes
) -> Path:
    """A run of a model and rank of a published table; keys of the gate are ``changes``."""
    run_folder(folder, adapter=adapter, seed=changes.pop("seed", 1), right=right)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["name"] = model
    config["adapter"] |= {"r": r, "start_from": changes.pop("start_from", None)}
    if changes:
        config["adapter"]["gate"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def _answer(row: int, right: bool) -> tuple[str, str]:
    """The predicted and the true class of two."""
    label, other = ("x", "y") if row % 3 else ("y", "x")
    return (label if right else other), label


def with_optimizer(folder: Path, optimizer: str) -> None:
    """Give a run another optimizer, at the same learning rate."""
    config = read_config(folder / "config.yaml")
    words = ["recipe=smoke", f"optimizer={optimizer}", f"optimizer.lr={config.optimizer.lr}"]
    chosen = compose_run(words, []).optimizer
    write_config(dataclasses.replace(config, optimizer=chosen), folder / "config.yaml")
