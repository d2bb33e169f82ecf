"""Compare runs: a leaderboard, and paired comparisons of methods on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import plain_json
from toplora_train.evaluation import paired
from toplora_train.evaluation.row_scores import RowScores, mean_over_tasks
from toplora_train.report.costs import method_costs, step_time_warning
from toplora_train.report.fairness import fairness_warnings
from toplora_train.report.jobs import PENDING, SEED, SUPERSEDED, Unfinished, failed_rates
from toplora_train.report.joint import join_tasks, methods_by_task
from toplora_train.report.methods import RATE, Method, of_method, settings_of
from toplora_train.report.numbers import counted
from toplora_train.report.rates import (
    edge_warnings,
    learning_rates,
    near_warnings,
    untuned,
)
from toplora_train.report.record import run_of
from toplora_train.report.runs import Run, task_scores

GAIN = 0.01

Pair = tuple[Method, Method]


def compare_runs(
    runs: Sequence[Run],
    *,
    tuning: Sequence[Run] = (),
    unfinished: Sequence[Unfinished] = (),
    baseline: str | None = None,
    gain: float = GAIN,
) -> dict[str, Any]:
    """Compare the methods of the runs.

    Args:
        runs: Finished runs with the same protocol.
        tuning: The runs by which their learning rates were chosen; by default the same ones.
        unfinished: Runs of the same study that are not completed, or no longer count.
        baseline: The method every other one is compared to; None for all pairs.
        gain: The true difference for which the number of seeds needed is computed.

    Returns:
        ``protocol, protocol_hash, tasks, baseline, reference, gain, warnings``; ``methods``, best
        first, each with its scores, the interval and standard deviation of its average, its
        ``group`` letters and its costs (:func:`toplora_train.report.costs.method_costs`, relative
        to ``reference``: the baseline or the first method); ``comparisons``, each of ``first`` and
        ``second`` with the difference, interval, p values, ``detectable``, ``seeds_needed`` and
        verdict by task and on average; ``learning_rates``
        (:func:`toplora_train.report.rates.learning_rates`); and ``unfinished``. A task's other
        metrics are compared as ``TASK (METRIC)`` and not averaged.

    Raises:
        UserError: The runs' protocols differ, or ``baseline`` is not one of the methods.
    """
    methods, left_out = join_tasks(runs)
    pairs = _pairs(methods, baseline)
    ordered = [run for method in methods for run in method.runs]
    first_report = ordered[0].report
    tasks: Mapping[str, Any] = first_report["tasks"]
    scores = {task: task_scores(ordered, task, how["metric"]) for task, how in tasks.items()}
    other_metrics = {
        f"{task} ({metric})": task_scores(ordered, task, metric)
        for task, how in tasks.items()
        for metric in how["more"]
        if pairs
    }
    mean = mean_over_tasks(list(scores.values())) if scores else None
    places = _places(methods)
    by_task = _family(pairs, places, scores | other_metrics, gain)
    on_average = (
        _family(pairs, places, {"average": mean}, gain) if mean and len(scores) > 1 else None
    )
    comparisons = [
        {
            "first": first.name,
            "second": second.name,
            "tasks": by_task[index],
            "average": on_average[index]["average"] if on_average else None,
        }
        for index, (first, second) in enumerate(pairs)
    ]
    reference = pairs[0][0] if pairs else methods[0]
    costs = method_costs(methods, reference)
    lines = [
        _scores_of(
            method, list(tasks), paired.interval(mean, places[method.name]) if mean else None
        )
        | costs[method.name]
        for method in methods
    ]
    lines.sort(key=lambda method: -(method["average"] or 0.0))
    failed = failed_rates(unfinished)
    rates = learning_rates(_of_each_task(tuning or runs), failed)
    # A method that was not tuned was tried at the rate of its runs.
    by_study = {_untuned(run) for run in tuning}
    tried = _of_each_task([*tuning, *(run for run in runs if _untuned(run) not in by_study)])
    chosen = not any(one.tuning and one.state in PENDING for one in unfinished)  # by all trials
    document = {
        "protocol": first_report["protocol"],
        "protocol_hash": first_report["protocol_hash"],
        "tasks": {
            task: {key: how[key] for key in ("metric", "kind", "n")} for task, how in tasks.items()
        },
        "methods": lines,
        "baseline": reference.name if baseline else None,
        "reference": reference.name,
        "comparisons": comparisons,
        "gain": gain,
        "learning_rates": rates,
        "unfinished": [
            {key: value for key, value in asdict(one).items() if key not in ("rate", "like")}
            for one in unfinished
        ],
        "warnings": [
            *_unfinished_warnings(unfinished),
            *left_out,
            *fairness_warnings(methods, reference, tuned=tried, failed=failed),
            *filter(None, [step_time_warning(methods)]),
            *(edge_warnings(rates, "study.rates" if tuning else "optimizer.lr") if chosen else []),
            # Where nothing was tuned each rate is a method of its own.
            *(near_warnings(rates) if chosen and tuning else []),
        ],
    }
    if not baseline and len(methods) > 2 and all(len(method.runs) > 1 for method in methods):
        groups = letters([line["name"] for line in lines], _significant_pairs(comparisons))
        for line in lines:
            line["group"] = groups[line["name"]]
    plain: dict[str, Any] = plain_json(document)
    return plain


def _of_each_task(runs: Sequence[Run]) -> list[Method]:
    """The methods of the runs, those that train a head for each task."""
    by_task = methods_by_task(runs)
    return [
        Method(f"{one.name} on {','.join(of)}", one.runs) if len(by_task) > 1 else one
        for of, found in by_task.items()
        for one in found
    ]


def _untuned(run: Run) -> tuple[tuple[str, ...], str]:
    """What a run has in common with those at other learning rates."""
    keys = {key for key in of_method(run) if key != RATE}
    return run.head_of, settings_of(run, only=keys)


def overall(comparison: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The main result of a comparison: the difference on average, or on the only task."""
    if comparison["average"] is not None:
        return "average", comparison["average"]
    return next(iter(comparison["tasks"].items()), None)


def runs_to_inspect(document: Mapping[str, Any]) -> dict[str, Path]:
    """The runs whose adapters are compared: the first of each method, or two of a single one.

    Raises:
        UserError: There is one run only.
    """
    methods = document["methods"]
    found = {method["name"]: method["runs"][0] for method in methods}
    if len(methods) == 1:
        (only,) = methods
        pairs = list(zip(only["seeds"], only["runs"], strict=False))[:2]
        found = {f"{only['name']} seed={seed}": folder for seed, folder in pairs}
    if len(found) < 2:
        raise UserError("angles=true compares the adapters of two runs, and there is one")
    return {name: run_of(Path(folder)) for name, folder in found.items()}


def letters(names: Sequence[str], apart: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Compact letter display: two methods share a letter iff they do not differ significantly.

    Args:
        names: The methods, best first.
        apart: The pairs that differ significantly.

    Source: H.-P. Piepho, An algorithm for a letter-based representation of all-pairwise comparisons
    (2004).
    """
    columns = [set(names)]
    for first, second in apart:
        split = [column for column in columns if not {first, second} <= column]
        for column in columns:
            if {first, second} <= column:
                split += [column - {first}, column - {second}]
        columns = []
        for column in sorted(split, key=len, reverse=True):
            if not any(column <= larger for larger in columns):
                columns.append(column)
    columns.sort(key=lambda column: [name not in column for name in names])
    named = dict(zip(_letters(len(columns)), columns, strict=True))
    return {
        name: "".join(letter for letter, column in named.items() if name in column)
        for name in names
    }


def _letters(many: int) -> list[str]:
    """``a`` to ``z``, then ``a1`` and so on."""
    return [
        ascii_lowercase[index % 26] + (str(index // 26) if index >= 26 else "")
        for index in range(many)
    ]


def _pairs(methods: Sequence[Method], baseline: str | None) -> list[Pair]:
    if baseline is None:
        return list(combinations(methods, 2))
    # The name without the learning rate is enough if one method has it, and the adapter's alone.
    named: list[Method] = []
    for name in (
        lambda method: method.name,
        untuned,
        lambda method: method.runs[0].settings["adapter.name"],
    ):
        named = named or [method for method in methods if name(method) == baseline]
    if len(named) != 1:
        raise UserError(
            f"baseline={baseline} matches {'several methods' if named else 'no method'}; the "
            f"methods are {', '.join(repr(method.name) for method in methods)}"
        )
    return [(named[0], method) for method in methods if method is not named[0]]


def _places(methods: Sequence[Method]) -> dict[str, list[int]]:
    """Indices of each method's runs, with the runs ordered by method."""
    places: dict[str, list[int]] = {}
    for method in methods:
        begin = sum(len(found) for found in places.values())
        places[method.name] = list(range(begin, begin + len(method.runs)))
    return places


def _family(
    pairs: Sequence[Pair],
    places: Mapping[str, list[int]],
    measured: Mapping[str, RowScores],
    gain: float,
) -> list[dict[str, Any]]:
    """Differences by pair and measurement, with a family-wise error rate of 5 %."""
    tests = len(pairs) * len(measured)
    found = [
        paired.compare(scores, places[first.name], places[second.name], tests=tests)
        for first, second in pairs
        for scores in measured.values()
    ]
    adjusted = paired.holm([difference.p for difference in found])
    results = [
        _with_verdict(*one, gain=gain, tests=tests) for one in zip(found, adjusted, strict=True)
    ]
    return [
        dict(zip(measured, results[index * len(measured) :][: len(measured)], strict=True))
        for index in range(len(pairs))
    ]


def _with_verdict(
    difference: paired.Difference, adjusted: float, *, gain: float, tests: int
) -> dict[str, Any]:
    several_seeds = difference.seed_variance is not None
    return asdict(difference) | {
        "p_adjusted": adjusted,
        "seeds_needed": paired.seeds_to_see(gain, difference, tests=tests)
        if several_seeds
        else None,
        "verdict": paired.verdict(difference, adjusted),
    }


def _significant_pairs(comparisons: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    found = [(one["first"], one["second"], overall(one)) for one in comparisons]
    return [
        (first, second)
        for first, second, difference in found
        if difference and difference[1]["p_adjusted"] < paired.LEVEL
    ]


def _unfinished_warnings(unfinished: Sequence[Unfinished]) -> list[str]:
    warnings = []
    lacking = [one for one in unfinished if one.state not in (SUPERSEDED, "pruned")]
    if lacking:
        verb = "is" if len(lacking) == 1 else "are"
        line = f"{counted(len(lacking), 'run')} of the study {verb} not completed and not compared"
        commands = dict.fromkeys(one.command for one in lacking if one.command)
        named = "; ".join(f"{one.name} ({one.state})" for one in lacking)
        warnings.append(
            "\n".join([f"{line}. To continue:", *commands]) if commands else f"{line}: {named}."
        )
    earlier = [
        " ".join(word for word in one.name.split(" ") if not word.startswith(SEED))
        for one in unfinished
        if one.state == SUPERSEDED and not one.tuning
    ]
    if earlier:
        warnings.append(
            f"Left out: {counted(len(earlier), 'run')} at a learning rate that the study no longer "
            f"chooses: {'; '.join(dict.fromkeys(earlier))}."
        )
    return warnings


def _scores_of(
    method: Method, tasks: Sequence[str], ci95: tuple[float, float] | None
) -> dict[str, Any]:
    """A method's row in the leaderboard; ``ci95`` is the interval of its average."""
    reports = [run.report for run in method.runs]
    averages = [report["average"] for report in reports if report["average"] is not None]
    return {
        "name": method.name,
        "runs": [str(run.folder) for run in method.each],
        "seeds": [report["seed"] for report in reports],
        "tasks": {
            task: float(np.mean([report["tasks"][task]["value"] for report in reports]))
            for task in tasks
        },
        "average": float(np.mean(averages)) if averages else None,
        "deviation": float(np.std(averages, ddof=1)) if len(averages) > 1 else None,
        "average_ci95": reports[0]["average_ci95"] if len(reports) == 1 else ci95,
        "group": "",
    }
