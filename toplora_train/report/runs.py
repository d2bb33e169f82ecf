"""Finished runs as they are compared: their report, settings and answers, grouped by method."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.config.resolved import flat, read_config
from toplora_train.evaluation.metrics import Values, as_numbers
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.evaluation.row_scores import RowScores, other_metric, share_right
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

    choices: Mapping[str, Sequence[str]]  # by task, the classes in the order of their numbers

    def predictions(self, task: str) -> list[Prediction]:
        """The stored answers to a task."""
        return read_predictions(self._stored(task))

    def numbers(self, task: str, answers: Sequence[str | None]) -> Values:
        """Answers to a task of labels as numbers.

        Raises:
            UserError: one is no class of the task.
        """
        try:
            return as_numbers([str(answer) for answer in answers], self.choices.get(task, ()))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{self._stored(task)}: {error} is no class or number of the task; evaluate again"
            ) from error

    def _stored(self, task: str) -> Path:
        return self.folder / "predictions" / f"{task}.jsonl"


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed only; ``name`` tells them from the other methods here."""

    name: str
    runs: tuple[Run, ...]


def task_scores(runs: Sequence[Run], task: str, metric: str) -> RowScores:
    """The runs' scores on a task and how they vary together, from the stored answers.

    Args:
        runs: All of them answered the same rows.
        task: Its name.
        metric: See :data:`toplora_train.evaluation.metrics.METRICS`.

    Raises:
        UserError: a run's answers are not to the same rows as the first one's.
    """
    first = runs[0].predictions(task)
    ids = [row.id for row in first]
    found: list[Values] = []
    for run in runs:
        predictions = first if run is runs[0] else run.predictions(task)
        if [row.id for row in predictions] != ids:
            raise UserError(
                f"{run.folder}: its stored answers to {task} are not to the same rows as the "
                "other runs'; evaluate it again"
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
    config = read_config(home / "config.yaml")
    settings = {
        key: value
        for key, value in flat(config).items()
        if key.partition(".")[0] not in NOT_OF_THE_METHOD and not key.startswith("dataset.test")
    }
    return Run(folder, report, settings, {name: task.choices for name, task in config.task.items()})


def validate_same_protocols(runs: Sequence[Run]) -> None:
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


def seed_warning(methods: Sequence[Method]) -> str | None:
    """Of methods with one seed nothing can be said, and how to get more seeds."""
    single = [method for method in methods if len(method.runs) == 1]
    if len(methods) < 2 or not single:
        return None
    commands = [_more_seeds(method, methods) for method in single]
    more = "; ".join(command for command in commands if command)
    return (
        f"One seed of {', '.join(method.name for method in single)}: no verdict on methods, only "
        "on the adapters at hand, as another seed may answer otherwise. "
        + (f"More seeds: {more}" if more else "Train each with three seeds or more.")
    )


def _more_seeds(method: Method, methods: Sequence[Method]) -> str:
    """The command that brings a method with one seed to three, or to as many as another has."""
    run = method.runs[0]
    program, *words = shlex.split(run.report["command"])
    if Path(program).name != "toplora-train":
        return ""
    own = int(run.report["seed"])
    others = {int(run.report["seed"]) for method in methods for run in method.runs} - {own}
    seeds = sorted(others) if len(others) > 1 else [own + 1, own + 2]
    kept = [word for word in words if word.partition("=")[0] not in ("-m", "seed", "output_dir")]
    return shlex.join([program, "-m", *kept, f"seed={','.join(map(str, seeds))}"])


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
