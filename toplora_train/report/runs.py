"""Finished runs as they are compared: their report, settings and answers, grouped by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.config.resolved import flat, read_config
from toplora_train.evaluation.paired import Right
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.report.record import read_report

# What does not make another method of a run: where it lies, how it was called, what only shows it.
NOT_OF_THE_METHOD = (
    "seed",
    "output_dir",
    "data_root",
    "resume",
    "plan",
    "command",
    "recipe",
    "tracker",
    "launch",
    "task",
    "evaluation",
)


@dataclass(frozen=True)
class Run:
    """One finished run, or one later evaluation of it."""

    folder: Path
    report: Mapping[str, Any]
    settings: Mapping[str, Any]  # by dotted key, those that make the method

    def predictions(self, task: str) -> list[Prediction]:
        """The stored answers to a task."""
        return read_predictions(self.folder / "predictions" / f"{task}.jsonl")


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed only; ``name`` tells them from the other methods here."""

    name: str
    runs: tuple[Run, ...]

    def right(self, task: str, ids: Sequence[str]) -> Right:
        """Which answers were right, a row per seed.

        Raises:
            UserError: a run's answers are not to these rows.
        """
        found = []
        for run in self.runs:
            predictions = run.predictions(task)
            if [prediction.id for prediction in predictions] != list(ids):
                raise UserError(
                    f"{run.folder}: its stored answers to {task} are not to the same rows as the "
                    "other runs'; evaluate it again"
                )
            found.append([float(prediction.correct) for prediction in predictions])
        return np.array(found)


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """Read runs; a folder of runs, such as a sweep's, stands for the finished ones in it.

    Raises:
        UserError: a folder holds no run, or one that is not finished.
    """
    places: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        inside = sorted(path.parent for path in folder.glob("*/report.json"))
        if (folder / "report.json").is_file():
            places.append(folder)
        elif inside:
            places += inside
        else:
            raise UserError(f"{folder} holds no run: there is no report.json in it")
    return [_read(place) for place in dict.fromkeys(path.resolve() for path in places)]


def _read(folder: Path) -> Run:
    report = read_report(folder / "report.json")
    if report.get("status") != "completed":
        raise UserError(f"{folder} is {report.get('status')}, not completed; leave it out")
    home = folder.parent.parent if folder.parent.name == "evaluations" else folder
    settings = {
        key: value
        for key, value in flat(read_config(home / "config.yaml")).items()
        if key.partition(".")[0] not in NOT_OF_THE_METHOD and not key.startswith("dataset.test")
    }
    return Run(folder, report, settings)


def refuse_different_protocols(runs: Sequence[Run]) -> None:
    """Scores of other rows, prompts or rules are no scores of the same thing.

    Raises:
        UserError: names two such runs and what they differ in.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.report["protocol_hash"] == first.report["protocol_hash"]:
            continue
        ours, theirs = first.report, run.report
        reasons = []
        if ours["protocol"] != theirs["protocol"]:
            reasons.append(f"protocol {ours['protocol']} and {theirs['protocol']}")
        if set(ours["tasks"]) != set(theirs["tasks"]):
            reasons.append(f"tasks {', '.join(ours['tasks'])} and {', '.join(theirs['tasks'])}")
        for task in ours["tasks"]:
            for key in ("kind", "n"):
                a, b = ours["tasks"][task].get(key), theirs["tasks"].get(task, {}).get(key, None)
                if b is not None and a != b:
                    reasons.append(f"{task}: {key} {a} and {b}")
        raise UserError(
            f"{first.folder.name} and {run.folder.name} were not asked the same in the same way "
            f"({'; '.join(reasons) or 'other rows, prompts or rules'}), so their scores are not "
            "compared; evaluate both alike with toplora-eval"
        )


def group(runs: Sequence[Run]) -> list[Method]:
    """Runs by method, in the order given, named by what tells them apart.

    Raises:
        UserError: two runs are one method with one seed.
    """
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(str(sorted(run.settings.items(), key=str)), []).append(run)
    for alike in together.values():
        seeds = [run.report["seed"] for run in alike]
        for run in alike:
            if seeds.count(run.report["seed"]) > 1:
                raise UserError(
                    f"{run.folder} is the same run as another one here, seed included; leave it out"
                )
    keys = _telling_keys([alike[0].settings for alike in together.values()])
    return [Method(_name(alike[0], keys), tuple(alike)) for alike in together.values()]


def _telling_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys, but for the adapter's name, in which methods of one adapter differ."""
    keys: dict[str, None] = {}
    for one in settings:
        for other in settings:
            if one["adapter.name"] != other["adapter.name"]:
                wanted = [key for key in one if key in other and one[key] != other[key]]
            else:
                wanted = [key for key in {**one, **other} if one.get(key) != other.get(key)]
            keys.update(dict.fromkeys(key for key in wanted if not key.endswith(".name")))
    return list(keys)


def _name(run: Run, keys: Sequence[str]) -> str:
    told = [f"{key}={run.settings[key]}" for key in keys if key in run.settings]
    return " ".join([str(run.settings["adapter.name"]), *told])


def learning_rate_warning(methods: Sequence[Method]) -> str | None:
    """A method that was tried at more learning rates than another looks better for that alone."""
    grids: dict[str, set[float]] = {}
    for method in methods:
        for run in method.runs:
            rates = grids.setdefault(str(run.settings["adapter.name"]), set())
            rates.add(float(run.settings["optimizer.lr"]))
    if len({frozenset(rates) for rates in grids.values()}) < 2:
        return None
    told = ", ".join(
        f"{name} {', '.join(f'{rate:g}' for rate in sorted(rates))}"
        for name, rates in grids.items()
    )
    return (
        f"The methods were not given the same learning rates ({told}); each has its own best one, "
        "and a difference may be no more than that."
    )
