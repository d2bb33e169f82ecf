"""Measure the false-positive rate and the power of `toplora-report` on simulated runs.

    python benchmarks/false_verdicts.py                      # equal methods: 1, 2, 3 and 5 seeds
    python benchmarks/false_verdicts.py --methods 6          # all pairs of six equal methods
    python benchmarks/false_verdicts.py --gain 1.5 --seeds 3 5
    python benchmarks/false_verdicts.py --folders 20 --seeds 3    # with the command, on run folders

Reports on two methods, or more, are simulated on eight test sets with the sizes of the commonsense
tasks. The difficulty of a row has a component shared by all runs, one shared by the runs of a
method, and one specific to the run (so that runs disagree about as often as real ones: the rate is
printed). New rows are drawn for each report. A run's accuracy varies with its seed (normal, 0.77
points), equally on all tasks ("common"), independently on each task ("own"), or not at all
("none").

It counts the reports with a verdict "better" or "worse" on methods, on any average and on any task
(after Holm), and, with one seed, those with a verdict on adapters. Prints JSON with rates in
percent and their standard error.

With `--folders` each pair is also written as run folders and compared by the command
`toplora-report`; any difference from the verdicts computed here is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import combinations
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import ndtri

from toplora_train.evaluation.paired import compare, holm, verdict
from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.evaluation.row_scores import mean_over_tasks, share_right

TASKS = {  # rows of the test set, accuracy of both methods without gain
    "boolq": (3270, 0.70),
    "piqa": (1838, 0.82),
    "social_i_qa": (1954, 0.78),
    "hellaswag": (10042, 0.88),
    "winogrande": (1267, 0.80),
    "arc_easy": (2376, 0.85),
    "arc_challenge": (1172, 0.72),
    "openbookqa": (500, 0.80),
}
QUESTIONS = {task: [f"{task} {row}?" for row in range(rows)] for task, (rows, _) in TASKS.items()}
SEED_DEVIATION = 0.0077
EFFECTS = ("common", "own", "none")
SHARED, OF_METHOD = 0.91, 0.02  # fractions of the variance of difficulty; the rest is per run

Answers = dict[str, np.ndarray]
Verdicts = dict[tuple[str, int, int], tuple[float, str]]
AVERAGE = "average"


def draw(
    rng: np.random.Generator,
    seeds: int,
    effect: str,
    gain: float,
    methods: int = 2,
    of_method: float = OF_METHOD,
) -> Answers:
    """Which rows are correct, by task `(methods * seeds, rows)`, the runs of a method together.

    All methods but the first have the gain.
    """
    method = np.repeat(np.arange(methods), seeds)
    runs = len(method)
    seed_effect = rng.standard_normal((runs, len(TASKS))) * SEED_DEVIATION
    if effect == "common":
        seed_effect = np.repeat(seed_effect[:, :1], len(TASKS), axis=1)
    elif effect == "none":
        seed_effect = np.zeros_like(seed_effect)
    found = {}
    for index, (task, (rows, accuracy)) in enumerate(TASKS.items()):
        normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
        difficulty = sqrt(SHARED) * normal(rows) + sqrt(of_method) * normal(methods, rows)
        difficulty = difficulty[method] + sqrt(1 - SHARED - of_method) * normal(runs, rows)
        limit = ndtri(np.clip(accuracy + seed_effect[:, index] + gain * (method > 0), 0.01, 0.99))
        found[task] = difficulty < limit[:, None].astype(np.float32)
    return found


def compute_verdicts(answers: Answers, seeds: int) -> Verdicts:
    """The adjusted p and the verdict by task or average and pair, computed as in the report."""
    scores = {task: share_right(right, QUESTIONS[task]) for task, right in answers.items()}
    methods = len(next(iter(answers.values()))) // seeds
    pairs = list(combinations(range(methods), 2))
    found: Verdicts = {}
    for family in (scores, {AVERAGE: mean_over_tasks(list(scores.values()))}):
        names = [(name, *pair) for name in family for pair in pairs]
        differences = [
            compare(
                family[name], *(range(seeds * m, seeds * (m + 1)) for m in (a, b)), tests=len(names)
            )
            for name, a, b in names
        ]
        adjusted = holm([difference.p for difference in differences])
        found |= {
            name: (p, verdict(difference, p))
            for name, difference, p in zip(names, differences, adjusted, strict=True)
        }
    return found


def disagreement(answers: Answers, seeds: int) -> tuple[float, float]:
    """The fraction of rows on which two runs disagree: of the same method, of different ones."""
    right = np.concatenate(list(answers.values()), axis=1)
    other = float((right[0] != right[-1]).mean())
    return (float((right[0] != right[1]).mean()) if seeds > 1 else other), other


def measure(
    reports: int, seeds: int, effect: str, gain: float, methods: int, of_method: float
) -> dict[str, Any]:
    """The rates of reports with a verdict, in percent."""
    rng = np.random.default_rng(0)
    counted: Counter[str] = Counter()
    for _ in range(reports):
        found = compute_verdicts(draw(rng, seeds, effect, gain, methods, of_method), seeds)
        for place, averages in (("any average", True), ("any task", False)):
            words = {
                said for (name, *_), (_, said) in found.items() if (name == AVERAGE) == averages
            }
            for word in ("better", "worse"):
                counted[f"{place}: {word}"] += word in words
            counted[f"{place}: either"] += bool({"better", "worse"} & words)
            counted[f"{place}: of adapters"] += any(one.startswith("this adapter") for one in words)
    either = counted["any average: either"] / reports
    same, other = disagreement(draw(rng, seeds, effect, gain, methods, of_method), seeds)
    return {
        "methods": methods,
        "of method": of_method,
        "seeds": seeds,
        "seed effect": effect,
        "gain": 100 * gain,
        "reports": reports,
        **{name: round(100 * count / reports, 2) for name, count in counted.items()},
        "standard error": round(100 * sqrt(either * (1 - either) / reports), 2),
        "rows that two runs disagree on": [round(100 * same, 1), round(100 * other, 1)],
    }


def through_the_command(pairs: int, seeds: int, effect: str, gain: float) -> dict[str, Any]:
    """Write pairs as run folders, run the command, and check it against `compute_verdicts`."""
    rng = np.random.default_rng(0)
    commands = Path(sys.executable).parent
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        templates = [
            _template_run(commands, home / adapter, adapter) for adapter in ("lora", "toplora")
        ]
        for pair in range(pairs):
            answers = draw(rng, seeds, effect, gain)
            folders = []
            for run in range(2 * seeds):
                folders.append(home / f"pair{pair}" / str(run))
                _write_run(folders[-1], templates[run // seeds], answers, run, seed=run % seeds + 1)
            output = home / f"pair{pair}" / "out"
            subprocess.run(
                [commands / "toplora-report", *folders, f"output={output}"],
                check=True,
                capture_output=True,
            )
            (shown,) = json.loads((output / "comparison.json").read_text())["comparisons"]
            shown = shown["tasks"] | {AVERAGE: shown["average"]}
            for (name, *_), (p, words) in compute_verdicts(answers, seeds).items():
                if shown[name]["verdict"] != words or abs(shown[name]["p_adjusted"] - p) > 1e-9:
                    raise SystemExit(
                        f"pair {pair}, {name}: computed {p} {words}, shown {shown[name]}"
                    )
            counted[shown[AVERAGE]["verdict"].partition(";")[0]] += 1
    return {
        "through the command": dict(counted),
        "seeds": seeds,
        "seed effect": effect,
        "gain": 100 * gain,
        "pairs": pairs,
        "verdicts that equal the counted ones": pairs * (len(TASKS) + 1),
    }


def _template_run(commands: Path, folder: Path, adapter: str) -> Path:
    """A real run whose settings and report are used by the simulated ones."""
    subprocess.run(
        [commands / "toplora-train", "recipe=smoke", f"adapter={adapter}", f"output_dir={folder}"],
        check=True,
        capture_output=True,
    )
    return folder


def _write_run(folder: Path, like: Path, answers: Answers, run: int, *, seed: int) -> None:
    folder.mkdir(parents=True)
    config = yaml.safe_load((like / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    report = json.loads((like / "report.json").read_text())
    task_like = next(iter(report["tasks"].values()))
    report["tasks"] = {}
    for task, right in answers.items():
        rows = [
            Prediction(f"{task}-{i}", question, "", "x", "x" if one else "y", bool(one))
            for i, (question, one) in enumerate(zip(QUESTIONS[task], right[run], strict=True))
        ]
        write_predictions(folder / "predictions" / f"{task}.jsonl", rows)
        value = float(right[run].mean())
        report["tasks"][task] = task_like | {"value": value, "n": len(rows)}
    report["average"] = float(np.mean([task["value"] for task in report["tasks"].values()]))
    (folder / "report.json").write_text(json.dumps(report | {"seed": seed}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=2000)
    parser.add_argument("--methods", type=int, default=2, help="compared in all pairs")
    parser.add_argument(
        "--of-method",
        type=float,
        default=OF_METHOD,
        help=f"the variance of difficulty that the runs of a method share, of {1 - SHARED:.2g}",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 5])
    parser.add_argument("--effects", nargs="+", choices=EFFECTS, default=EFFECTS)
    parser.add_argument("--gain", type=float, default=0.0, help="in points; 0 for equal methods")
    parser.add_argument("--folders", type=int, default=0, help="run the command on so many pairs")
    arguments = parser.parse_args()
    for seeds in arguments.seeds:
        for effect in arguments.effects:
            began = time.perf_counter()
            found = (
                through_the_command(arguments.folders, seeds, effect, arguments.gain / 100)
                if arguments.folders
                else measure(
                    arguments.reports,
                    seeds,
                    effect,
                    arguments.gain / 100,
                    arguments.methods,
                    arguments.of_method,
                )
            )
            print(
                json.dumps(found | {"seconds": round(time.perf_counter() - began, 1)}), flush=True
            )


if __name__ == "__main__":
    main()
