"""The command ``toplora-eval``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from toplora_train.config.arguments import Key, parse_arguments, parse_list, show_usage
from toplora_train.config.errors import Interrupted, UserError
from toplora_train.config.methods import language_methods
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import EvaluationSettings
from toplora_train.launch.command import run_command

COMMAND = "toplora-eval"
MODULE = "toplora_train.launch.evaluate"
PURPOSE = (
    "Ask a run's saved adapter again, or other tasks, with its base model beside it; or read the\n"
    "answers that it gave by another protocol's rules, without the model. What comes out is in\n"
    "RUN/evaluations/NAME: predictions and a report like the run's."
)
PROTOCOLS = get_args(get_type_hints(EvaluationSettings)["protocol"])
KEYS = (
    Key("run", "the run directory, the one with report.json", required=True),
    Key("task", "the tasks to ask, task=[gsm8k,svamp]; the run's own if not given"),
    Key("harness", "tasks of the lm-evaluation-harness to ask instead, harness=[arc_easy,piqa]"),
    Key("rescore", "read the stored answers by these rules; no model is loaded", choices=PROTOCOLS),
    Key("protocol", "how rows are worded, decoded and read", choices=PROTOCOLS),
    Key(
        "multiple_choice",
        "how tasks with choices are asked: to write the answer, to choose its label by likelihood, "
        "or (cloze) its words without listing them",
        choices=language_methods(),
    ),
    Key("option_score", "of log-likelihoods: their sum, or their mean", choices=("sum", "mean")),
    Key("limit", "rows of each task, null for all"),
    Key("batch_size", "rows per forward pass"),
    Key("base", "whether the base model is asked too", choices=("true", "false")),
    Key("data_root", "the local mirror that rows are looked for in"),
    Key("device", "where to compute", choices=("auto", "cpu", "cuda", "mps")),
    Key("processes", "how many share the rows, each with the model; auto: one per GPU"),
    Key(
        "config_dir", "a folder with task files of your own, FOLDER/task/NAME.yaml or the harness'"
    ),
    Key("name", "the evaluation's folder; made of the words above if not given"),
)


OF_RESCORE = ()
OF_HARNESS = ("limit", "batch_size", "base", "device", "config_dir")


def main() -> int:
    """``toplora-eval``: returns the exit code."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(show_usage(COMMAND, PURPOSE, KEYS))  # noqa: T201  (for the user)
        return 0
    interrupted: list[int] = []

    def evaluate() -> None:
        try:
            _evaluate(words)
        except Interrupted as interruption:
            interrupted.append(interruption.exit_code)
            raise KeyboardInterrupt(f"{interruption}{remedy(words)}") from interruption

    code = run_command(evaluate)
    return interrupted[0] if interrupted else code


def remedy(words: list[str]) -> str:
    """What there is to do after an interruption, where answers were kept as they came."""
    if any(word.startswith(("rescore=", "harness=")) for word in words):
        return ""
    return "; the answers so far are kept: the same command goes on from them"


def _evaluate(words: list[str]) -> None:
    given = parse_arguments(words, KEYS, command=COMMAND)
    run_dir = Path(given["run"])
    if not run_dir.is_dir():
        raise UserError(f"run={run_dir}: there is no such folder")
    config = read_config(run_dir / "config.yaml")
    if "rescore" in given:
        _validate_others(given, "rescore", OF_RESCORE, "reads the answers that are there")
        from toplora_train.run.rescore import rescore

        name = given.get("name", f"rescored-{given['rescore']}")
        protocol, command = given["rescore"], shlex.join([COMMAND, *words])
        folder, report = rescore(
            config, run_dir, protocol_name=protocol, name=name, command=command
        )
        return _tell(report, folder)

    # Here, as reading stored answers needs nothing of it.
    from toplora_train.config.again import EVALUATION, evaluation_config

    own = Path(given["config_dir"]) if "config_dir" in given else None
    if own is not None and not own.is_dir():
        raise UserError(f"config_dir={own}: there is no such folder")
    again = evaluation_config(
        config,
        tasks=parse_list(given["task"]) if "task" in given else None,
        evaluation={key: given[key] for key in EVALUATION if key in given},
        data_root=given.get("data_root"),
        device=given.get("device"),
        own=[own] if own else [],
    )
    if "harness" in given:
        _validate_others(given, "harness", OF_HARNESS, "words and scores as the harness does")
        from toplora_train.run.harness import ask_harness

        tasks = parse_list(given["harness"])
        name = given.get("name", "-".join(["harness", *tasks]))
        limit = again.evaluation.limit if "limit" in given else None
        file, found = ask_harness(again, run_dir, tasks, name=name, limit=limit, own=own)
        return _tell_harness(found, file)
    if "processes" in given and "WORLD_SIZE" not in os.environ:
        _in_several_processes(words, given["processes"], again.launch.device, run_dir)
    from toplora_train.run.evaluate import evaluate  # heavy: only for a command that is right

    name = given.get("name", name_of(given))
    folder, report = evaluate(again, run_dir, name=name, command=shlex.join([COMMAND, *words]))
    return _tell(report, folder) if report is not None else None


def _in_several_processes(words: list[str], processes: str, device: str, run_dir: Path) -> None:
    """Leave this process when so many have done the same command's work; return if one is all."""
    from toplora_train.launch.agent import count_processes, devices_here, run_workers

    if processes != "auto" and not (processes.isdecimal() and int(processes)):
        raise UserError(f"processes={processes} must be a whole number above zero, or auto")
    count = count_processes(processes, device, devices_here())
    if count > 1:
        raise SystemExit(run_workers(["-m", MODULE, *words], count, run_dir))


def _validate_others(given: Mapping[str, str], key: str, fit: tuple[str, ...], why: str) -> None:
    others = [other for other in given if other not in ("run", key, "name", *fit)]
    if others:
        raise UserError(
            f"{key} {why}, so {others[0]}= has no meaning beside it; leave one of the two out"
        )


def name_of(given: Mapping[str, str]) -> str:
    """A name that the same words always give, and others do not."""
    parts = [given.get("protocol", ""), given.get("multiple_choice", "")]
    parts += parse_list(given.get("task", ""))
    for key in ("option_score", "limit"):
        parts += [f"{key}={given[key]}"] if key in given else []
    return "-".join(part for part in parts if part) or "again"


def _tell(report: Mapping[str, Any], folder: Path) -> None:
    from rich.console import Console

    from toplora_train.report.numbers import score

    console = Console(highlight=False, soft_wrap=True)
    for name, task in report["tasks"].items():
        base = (
            f"base {score(task['base_value'], task['base_ci95'], task['metric'])}, "
            if task["base_value"] is not None
            else ""
        )
        console.print(
            f"{name}: {base}tuned {score(task['value'], task['ci95'], task['metric'])}, "
            f"n = {task['n']}"
        )
    console.print(f"report: {folder / 'report.html'} (also report.md, report.json)")


def _tell_harness(found: Mapping[str, Any], file: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for task, metrics in found["tuned"].items():
        for key, value in metrics.items():
            metric, _, how = key.partition(",")
            if not how or metric.endswith("_stderr") or not isinstance(value, float):
                continue
            error = metrics.get(f"{metric}_stderr,{how}")
            spread = f" (standard error {error:.4f})" if isinstance(error, float) else ""
            base = f"base {found['base'][task][key]:.4f}, " if found["base"] else ""
            console.print(f"{task} {metric}: {base}tuned {value:.4f}{spread}")
    console.print(f"results: {file}")


if __name__ == "__main__":
    sys.exit(main())
