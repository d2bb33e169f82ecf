"""Methods over several tasks that need a head, and so a training run, each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.reading import validate
from toplora_train.report.fairness import validate_same_protocols
from toplora_train.report.methods import (
    RATE,
    ROWS_READ,
    Method,
    differing_keys,
    group,
    method_names,
    settings_of,
    typed,
)
from toplora_train.report.record import TaskScore, with_scores
from toplora_train.report.runs import Run

OF_A_TASK = ("task=", "seed=", "output_dir=")


def methods_by_task(runs: Sequence[Run]) -> dict[tuple[str, ...], list[Method]]:
    """The methods of the runs that trained a head on the same tasks, by these tasks.

    Runs of which some have no head, or share a part of their tasks, are one group.
    """
    by_task: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        by_task.setdefault(run.head_of, []).append(run)
    tasks = list(chain(*by_task))
    if () in by_task or len(set(tasks)) < len(tasks):
        by_task = {(): list(runs)}
    return {of: group(own) for of, own in by_task.items()}


def join_tasks(runs: Sequence[Run]) -> tuple[list[Method], list[str]]:
    """The methods to compare; runs with a head of their own for each task are one run per seed.

    A seed counts where every task has a completed run of it, and its score is the mean over tasks,
    as if one run had been evaluated on all of them.

    Returns:
        The methods, and warnings of seeds that a task lacks and of adapters that differ by task.

    Raises:
        UserError: Runs on the same task were evaluated differently, or no seed has all tasks.
    """
    by_task = methods_by_task(runs)
    for methods in by_task.values():
        validate_same_protocols([run for method in methods for run in method.runs])
    if len(by_task) < 2:
        return next(iter(by_task.values())), []
    named = _by_name(by_task)
    joined, lacking, unlike = [], [], []
    for name in dict.fromkeys(chain(*named.values())):
        found = {
            of: {int(run.report["seed"]): run for run in methods[name].runs}
            for of, methods in named.items()
            if name in methods
        }
        whole = []
        for seed in sorted(set(chain(*found.values()))):
            parts = [own[seed] for own in found.values() if seed in own]
            lacks = [",".join(of) for of in named if seed not in found.get(of, ())]
            if lacks:
                lacking.append(f"{name} seed={seed} has no completed run on {', '.join(lacks)}")
            else:
                whole.append(_joined(parts))
        if whole:
            joined.append(Method(name, tuple(whole)))
            unlike += _unlike(name, named)
    if not joined:
        raise UserError(
            f"no seed of a method has a completed run on each of {', '.join(chain(*by_task))} "
            f"({'; '.join(lacking)}); train the missing ones, or give the runs of one task"
        )
    warnings = []
    if lacking:
        warnings.append(
            f"Left out, as scores are averaged over the same tasks: {'; '.join(lacking)}."
        )
    if unlike:
        warnings.append(f"Averages of adapters that are not alike: {'; '.join(unlike)}.")
    return joined, warnings


def _unlike(name: str, named: Mapping[tuple[str, ...], Mapping[str, Method]]) -> list[str]:
    """The adapter's settings that a method does not have in common on all tasks."""
    settings = {",".join(of): methods[name].runs[0].settings for of, methods in named.items()}
    keys = sorted({key for one in settings.values() for key in one if key.startswith("adapter.")})
    return [
        f"{name} has {key} "
        + ", ".join(f"{typed(one.get(key))} on {of}" for of, one in settings.items())
        for key in keys
        if len({typed(one.get(key)) for one in settings.values()}) > 1
    ]


def _by_name(
    by_task: Mapping[tuple[str, ...], Sequence[Method]],
) -> dict[tuple[str, ...], dict[str, Method]]:
    """Each task's methods by a name that they have on all tasks.

    Methods of two tasks are one if they agree in every setting in which methods of any one task
    differ; what all methods of a task have in common, such as its epochs, is the task's. A learning
    rate is tuned for each task, and is part of the name only where nothing else tells methods
    apart.
    """
    everywhere = sorted({*chain(*(differing_keys(_firsts(own)) for own in by_task.values()))})
    keys = [key for key in everywhere if key not in (RATE, ROWS_READ)]
    for kept in (keys, everywhere):
        named = [
            {settings_of(run, only=kept): run for run in _firsts(own)} for own in by_task.values()
        ]
        if all(len(found) == len(own) for found, own in zip(named, by_task.values(), strict=True)):
            break
    firsts = {what: run for found in reversed(named) for what, run in found.items()}
    order = list(dict.fromkeys(chain(*named)))
    names = dict(zip(order, method_names([firsts[what] for what in order], kept), strict=True))
    return {
        of: {names[settings_of(method.runs[0], only=kept)]: method for method in methods}
        for of, methods in by_task.items()
    }


def _firsts(methods: Sequence[Method]) -> list[Run]:
    return [method.runs[0] for method in methods]


def _joined(parts: Sequence[Run]) -> Run:
    first, reports = parts[0], [run.report for run in parts]
    tasks = {
        task: validate(TaskScore, score, str(run.folder))
        for run in parts
        for task, score in run.report["tasks"].items()
    }
    report: dict[str, Any] = with_scores(first.report, tasks, None)
    report["train"]["seconds"] = sum(one["train"]["seconds"] for one in reports)
    report["adapter"]["trainable_parameters"] = max(
        one["adapter"]["trainable_parameters"] for one in reports
    )
    report["protocol_hash"] = "+".join(dict.fromkeys(one["protocol_hash"] for one in reports))
    choices = {task: names for run in parts for task, names in run.choices.items()}
    return replace(
        first, report=report, choices=choices, command=_command(parts), parts=tuple(parts)
    )


def _command(parts: Sequence[Run]) -> str:
    """The command of all parts; empty if they differ in more than the task."""
    commands = [shlex.split(run.command) for run in parts]
    kept = [[word for word in one if not word.startswith(OF_A_TASK)] for one in commands]
    if any(one != kept[0] for one in kept):
        return ""
    tasks = ",".join(f"[{','.join(run.head_of)}]" for run in parts)
    return shlex.join([*kept[0], f"task={tasks}"])
