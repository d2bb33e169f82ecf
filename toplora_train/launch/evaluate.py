"""The command ``toplora-eval``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from toplora_train.config.arguments import Key, parse_arguments, parse_list, show_usage
from toplora_train.config.errors import Interrupted, UserError
from toplora_train.config.garbage import without_collection
from toplora_train.config.methods import language_methods
from toplora_train.config.plugins import load_plugins, needed_to_use
from toplora_train.config.processes import launched_processes
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import EvaluationSettings
from toplora_train.launch.command import run_command

COMMAND = "toplora-eval"
MODULE = "toplora_train.launch.evaluate"
PURPOSE = (
    "Evaluate a run's saved adapter again, or on other tasks, with its base model for comparison;\n"
    "or rescore its stored outputs by another protocol's rules, without the model. Predictions "
    "and a\nreport are written to RUN/evaluations/NAME."
)
PROTOCOLS = get_args(get_type_hints(EvaluationSettings)["protocol"])
KEYS = (
    Key("run", "the run directory, the one with report.json", required=True),
    Key(
        "task",
        "the tasks, task=[gsm8k,svamp]; the run's own keep its settings, and are the default",
    ),
    Key("harness", "tasks of the lm-evaluation-harness instead, harness=[arc_easy,piqa]"),
    Key("rescore", "rescore the stored outputs by these rules; loads no model", choices=PROTOCOLS),
    Key("protocol", "how rows are prompted, decoded and extracted", choices=PROTOCOLS),
    Key(
        "multiple_choice",
        "how tasks with choices are answered: by generating, by the label's likelihood, or (cloze) "
        "by the likelihood of the answer's words, without listing the choices",
        choices=language_methods(),
    ),
    Key("option_score", "sum or mean of log-likelihoods", choices=("sum", "mean")),
    Key("limit", "rows per task, null for all"),
    Key("batch_size", "rows per forward pass"),
    Key("base", "whether to evaluate the base model too", choices=("true", "false")),
    Key("data_root", "the local mirror to look for rows in"),
    Key("device", "where to compute", choices=("auto", "cpu", "cuda", "mps")),
    Key("processes", "how many share the rows, each with the model; auto: one per GPU"),
    Key(
        "config_dir",
        "a folder with your task files, FOLDER/task/NAME.yaml or the harness's, and "
        "the modules of your own that the run uses",
    ),
    Key(
        "trust_remote_code",
        "whether the base model's own Python code may run; never taken from the run",
        choices=("true", "false"),
    ),
    Key("name", "the evaluation's folder; by default made of the words above"),
)
HARNESS_KEYS = ("limit", "batch_size", "base", "device", "config_dir", "trust_remote_code")


def main() -> int:
    """``toplora-eval``: returns the exit code."""
    words = sys.argv[1:]
    if any(word in ("-h", "--help") for word in words):
        print(show_usage(COMMAND, PURPOSE, KEYS))
        return 0
    interrupted: list[int] = []

    def evaluate() -> None:
        try:
            evaluate_words(words).show()
        except Interrupted as interruption:
            interrupted.append(interruption.exit_code)
            raise KeyboardInterrupt(f"{interruption}{remedy(words)}") from interruption

    code = run_command(evaluate)
    return interrupted[0] if interrupted else code


def remedy(words: list[str]) -> str:
    """How to resume after an interruption, if predictions were stored."""
    if any(word.startswith(("rescore=", "harness=")) for word in words):
        return ""
    return "; the predictions so far are kept: run the same command to resume"


@dataclass(frozen=True)
class Evaluated:
    """What was evaluated and written: the report, and how to show it.

    Only rank 0 of several processes has a report; the others' is empty.
    """

    report: Mapping[str, Any]
    place: Path
    show_report: Callable[[Mapping[str, Any], Path], None]

    def show(self) -> None:
        """Print the scores and where they were written."""
        if self.report:
            self.show_report(self.report, self.place)


def evaluate_words(words: list[str]) -> Evaluated:
    """Evaluate as the command line says.

    Raises:
        UserError: A word is invalid, or the run cannot be evaluated so.
    """
    given = parse_arguments(words, KEYS, command=COMMAND)
    run_dir = Path(given["run"])
    if not run_dir.is_dir():
        raise UserError(f"run={run_dir}: there is no such folder")
    config = read_config(run_dir / "config.yaml")
    own = Path(given["config_dir"]) if "config_dir" in given else None
    if own is not None and not own.is_dir():
        raise UserError(f"config_dir={own}: there is no such folder")
    folders = [own] if own else []
    if "rescore" in given:
        _validate_others(given, "rescore", ("config_dir",), "reuses the stored outputs")
        load_plugins(needed_to_use(config.plugins), folders)
        from toplora_train.run.rescore import rescore

        name = given.get("name", f"rescored-{given['rescore']}")
        protocol, command = given["rescore"], shlex.join([COMMAND, *words])
        folder, report = rescore(
            config, run_dir, protocol_name=protocol, name=name, command=command
        )
        return Evaluated(report, folder, _show)

    if "harness" in given:
        _validate_others(given, "harness", HARNESS_KEYS, "prompts and scores as the harness does")
    # Imported here, as rescoring does not need it.
    from toplora_train.config.again import EVALUATION, evaluation_config

    again = evaluation_config(
        config,
        tasks=parse_list(given["task"]) if "task" in given else None,
        evaluation={key: given[key] for key in EVALUATION if key in given},
        data_root=given.get("data_root"),
        device=given.get("device"),
        own=folders,
        trust_remote_code=given.get("trust_remote_code") == "true",
    )
    load_plugins(needed_to_use(again.plugins), folders)
    if "harness" in given:
        from toplora_train.run.harness import evaluate_harness

        tasks = parse_list(given["harness"])
        name = given.get("name", "-".join(["harness", *tasks]))
        limit = again.evaluation.limit if "limit" in given else None
        file, found = evaluate_harness(again, run_dir, tasks, name=name, limit=limit, own=own)
        return Evaluated(found, file, _show_harness)
    if launched_processes() is None and "processes" in given:
        _in_several_processes(words, given["processes"], again.launch.device, run_dir)
    with without_collection():
        from toplora_train.run.evaluate import evaluate  # heavy: only for a valid command

    name = given.get("name", name_of(given))
    folder, report = evaluate(again, run_dir, name=name, command=shlex.join([COMMAND, *words]))
    return Evaluated(report or {}, folder, _show)


def _in_several_processes(words: list[str], processes: str, device: str, run_dir: Path) -> None:
    """Run the command in several processes and exit; return if one is enough."""
    from toplora_train.launch.agent import count_processes, devices_here, run_workers

    if processes != "auto" and not (processes.isdecimal() and int(processes)):
        raise UserError(f"processes={processes} must be a whole number above zero, or auto")
    count = count_processes(processes, device, devices_here())
    if count > 1:
        raise SystemExit(run_workers(["-P", "-m", MODULE, *words], count, run_dir))


def _validate_others(given: Mapping[str, str], key: str, valid: tuple[str, ...], why: str) -> None:
    others = [other for other in given if other not in ("run", key, "name", *valid)]
    if others:
        raise UserError(
            f"{key} {why}, so {others[0]}= has no effect with it; leave one of the two out"
        )


def name_of(given: Mapping[str, str]) -> str:
    """A folder name, determined by the words and unique to them."""
    parts = [given.get("protocol", ""), given.get("multiple_choice", "")]
    parts += parse_list(given.get("task", ""))
    for key in ("option_score", "limit"):
        parts += [f"{key}={given[key]}"] if key in given else []
    return "-".join(part for part in parts if part) or "again"


def _show(report: Mapping[str, Any], folder: Path) -> None:
    from toplora_train.report.display import plain_console, say
    from toplora_train.report.numbers import score

    console = plain_console()
    for name, task in report["tasks"].items():
        base = (
            f"base {score(task['base_value'], task['base_ci95'], task['metric'])}, "
            if task["base_value"] is not None
            else ""
        )
        say(
            console,
            f"{name}: {base}tuned {score(task['value'], task['ci95'], task['metric'])}, "
            f"n = {task['n']}",
        )
    say(console, f"report: {folder / 'report.html'} (also report.md, report.json)")


def _show_harness(found: Mapping[str, Any], file: Path) -> None:
    from toplora_train.report.display import plain_console, say

    console = plain_console()
    for task, metrics in found["tuned"].items():
        for key, value in metrics.items():
            metric, _, filter_name = key.partition(",")
            if not filter_name or metric.endswith("_stderr") or not isinstance(value, float):
                continue
            error = metrics.get(f"{metric}_stderr,{filter_name}")
            spread = f" (standard error {error:.4f})" if isinstance(error, float) else ""
            base = f"base {found['base'][task][key]:.4f}, " if found["base"] else ""
            say(console, f"{task} {metric}: {base}tuned {value:.4f}{spread}")
    say(console, f"results: {file}")


if __name__ == "__main__":
    sys.exit(main())
