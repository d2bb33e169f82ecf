"""What makes a comparison of runs unfair, each with the command that would make it fair."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.report.methods import Method
from toplora_train.report.numbers import count, rate
from toplora_train.report.rates import untuned
from toplora_train.report.runs import Run, evaluation_command

BUDGET_TOLERANCE = 0.1  # relative difference in trainable parameters
MOST_NAMED = 3  # methods or commands in a warning


def validate_same_protocols(runs: Sequence[Run]) -> None:
    """Check that all runs were evaluated with the same rows, prompts and rules.

    Raises:
        UserError: Two runs were not; the message names the differences and the remedy.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.report["protocol_hash"] == first.report["protocol_hash"]:
            continue
        ours, theirs = first.report, run.report
        reasons, words, kinds = [], [], set()
        if ours["protocol"] != theirs["protocol"]:
            reasons.append(f"protocol {ours['protocol']} and {theirs['protocol']}")
            words.append(f"protocol={ours['protocol']}")
        if set(ours["tasks"]) != set(theirs["tasks"]):
            reasons.append(f"tasks {', '.join(ours['tasks'])} and {', '.join(theirs['tasks'])}")
            words.append(f"task=[{','.join(ours['tasks'])}]")
        if first.limit != run.limit:
            words.append(f"limit={'null' if first.limit is None else first.limit}")
        for task in ours["tasks"]:
            for key in ("kind", "n"):
                a, b = ours["tasks"][task].get(key), theirs["tasks"].get(task, {}).get(key, None)
                if b is not None and a != b:
                    reasons.append(f"{task}: {key} {a} and {b}")
                    kinds |= {a} if key == "kind" else set()
        words += [f"multiple_choice={kinds.pop()}"] if len(kinds) == 1 else []
        command = evaluation_command(run, *words, "name=again")
        remedy = f"evaluate again ({command}) and give RUN/evaluations/again instead"
        if not words:
            remedy = "evaluate both on the same test rows, in the same prompt"
        if first.head_of != run.head_of:
            remedy = "a head answers the task it was trained on only: compare the runs of each task"
        raise UserError(
            f"{first.folder.name} and {run.folder.name} were evaluated differently "
            f"({'; '.join(reasons) or 'their test rows or prompts differ'}), so their scores "
            f"cannot be compared; {remedy}"
        )


def fairness_warnings(
    methods: Sequence[Method],
    reference: Method,
    *,
    tuned: Sequence[Method],
    failed: Mapping[Path, Sequence[float]],
) -> list[str]:
    """What the comparison cannot say, or is biased by: a sentence, then commands, a line each.

    Args:
        methods: What is compared.
        reference: The method whose size the others should have.
        tuned: The methods at all learning rates that were tried.
        failed: Rates that were tried too, see :func:`toplora_train.report.jobs.failed_rates`.
    """
    if len(methods) < 2:
        found = [limit_warning(methods)]
    else:
        found = [
            learning_rate_warning(tuned, failed),
            budget_warning(methods, reference),
            seed_warning(methods),
            limit_warning(methods),
        ]
    return [warning for warning in found if warning]


def seed_warning(methods: Sequence[Method]) -> str | None:
    """Warn that methods with one seed cannot be compared, with the commands for more seeds."""
    single = [method for method in methods if len(method.runs) == 1]
    if len(methods) < 2 or not single:
        return None
    commands = [_trained(method.runs[0], {"seed": _seeds(method, methods)}) for method in single]
    return (
        f"Only one seed of {_first_few([method.name for method in single])}: the result applies to "
        "these adapters, not to the methods, as scores vary with the seed. "
        + (_listed("More seeds", commands) or "Train each with at least three seeds.")
    )


def _seeds(method: Method, methods: Sequence[Method]) -> str:
    """The seeds that the other methods have, or two more than the method's one."""
    own = int(method.runs[0].report["seed"])
    others = {int(run.report["seed"]) for method in methods for run in method.runs} - {own}
    return _joined(sorted(others) if len(others) > 1 else [own + 1, own + 2])


def learning_rate_warning(
    methods: Sequence[Method], failed: Mapping[Path, Sequence[float]]
) -> str | None:
    """Warn if methods were tried at different learning rates, which biases the comparison.

    Only of the same optimizer, as another one's rates are on another scale, and with a head of the
    same task, as each task may have its own rates.
    """
    grids: dict[str, set[float]] = {}
    examples: dict[str, Method] = {}
    every: dict[Any, set[float]] = {}
    for method in methods:
        name, run = untuned(method), method.runs[0]
        values = {float(run.settings["optimizer.lr"])}
        values.update(*(failed.get(one.folder, ()) for one in method.runs))
        grids.setdefault(name, set()).update(values)
        every.setdefault(_scale(run), set()).update(values)
        examples.setdefault(name, method)
    missing = {
        name: every[_scale(method.runs[0])] - grids[name] for name, method in examples.items()
    }
    if not any(missing.values()):
        return None
    tried = ", ".join(
        f"{name} {', '.join(f'{rate:g}' for rate in sorted(rates))}"
        for name, rates in grids.items()
    )
    commands = [
        _trained(
            examples[name].runs[0],
            {
                "optimizer.lr": _joined(rate(one) for one in sorted(rates)),
                "seed": _own_seeds(examples[name]),
            },
        )
        for name, rates in missing.items()
        if rates
    ]
    return (
        f"The methods were trained with different learning rates ({tried}); differences may be due "
        "to that alone. Tune each method over the same learning rates. "
        + _listed("The missing ones", commands)
    ).strip()


def _scale(run: Run) -> tuple[Any, ...]:
    return run.settings.get("optimizer.name"), run.head_of


def budget_warning(methods: Sequence[Method], reference: Method) -> str | None:
    """Warn if methods train more than 10 % more or fewer parameters than the reference."""
    wanted = _parameters(reference)
    unequal = [
        method
        for method in methods
        if abs(_parameters(method) - wanted) > BUDGET_TOLERANCE * wanted
    ]
    if not unequal:
        return None
    sizes = _first_few(
        [
            f"{method.name} {count(_parameters(method))} ({_parameters(method) / wanted - 1:+.0%})"
            for method in unequal
        ]
    )
    commands = [
        _trained(
            method.runs[0],
            {"adapter.budget": str(wanted), "seed": _own_seeds(method)},
            without=("adapter.r", "adapter.ranks"),
        )
        for method in unequal
        if "adapter.budget" in method.runs[0].settings
    ]
    return (
        f"The methods train different numbers of parameters ({reference.name} {count(wanted)}, "
        f"{sizes}); differences may be due to the size alone. "
        + _listed(f"At the size of {reference.name}", commands)
    ).strip()


def limit_warning(methods: Sequence[Method]) -> str | None:
    """Warn that not all rows of a task were evaluated."""
    cut = [
        run
        for method in methods
        for run in method.each
        if run.limit is not None
        and any(task["n"] == run.limit for task in run.report["tasks"].values())
    ]
    if not cut:
        return None
    return (
        f"Only the first {cut[0].limit} rows of each task were evaluated (evaluation.limit), so "
        "scores are less certain and not those of the whole sets. "
        + _listed(
            "Evaluate all of them, then compare the folders RUN/evaluations/all",
            [evaluation_command(run, "limit=null", "name=all") for run in cut],
        )
    )


def _parameters(method: Method) -> int:
    return int(method.runs[0].report["adapter"]["trainable_parameters"])


def _own_seeds(method: Method) -> str:
    return _joined(run.report["seed"] for run in method.runs)


def _joined(values: Any) -> str:
    return ",".join(map(str, values))


def _trained(run: Run, changes: Mapping[str, str], *, without: Sequence[str] = ()) -> str:
    """The run's command with other values; empty if it was not a training command."""
    program, *words = shlex.split(run.command) or [""]
    if Path(program).name != "toplora-train":
        return ""
    replaced = {"-m", "output_dir", *without, *changes}
    kept = [word for word in words if word.partition("=")[0] not in replaced]
    return shlex.join([program, "-m", *kept, *(f"{key}={value}" for key, value in changes.items())])


def _first_few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _listed(title: str, commands: Sequence[str]) -> str:
    """The title and the first few commands, each on its line; empty if there are none."""
    found = [command for command in commands if command]
    more = len(found) - MOST_NAMED
    lines = [f"{title}:", *found[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
    return "\n".join(lines) if found else ""
