"""A plausible synthetic run for the tests of the report."""

from functools import cache
from pathlib import Path

from toplora_train.evaluation.predictions import Prediction, write_predictions
from toplora_train.evaluation.statistics import wilson_interval
from toplora_train.report.gain import gain
from toplora_train.report.metrics_file import MetricsFile
from toplora_train.report.record import (
    Reload,
    Report,
    ReportAdapter,
    ReportData,
    ReportModel,
    ReportTrain,
    TaskScore,
    write_report,
)


def task_score(correct=256, n=400, base=48):
    return TaskScore(
        metric="accuracy",
        value=correct / n,
        n=n,
        ci95=wilson_interval(correct, n),
        base_value=None if base is None else base / n,
        base_ci95=None if base is None else wilson_interval(base, n),
        majority_value=0.06,
        seconds=141.2,
    )


@cache
def paired(correct, n, base):
    """The gain if one model's correct answers include all of the other's."""
    tuned_right, base_right = (
        [Prediction(str(i), str(i), "", None, "", i < right) for i in range(n)]
        for right in (correct, base)
    )
    return gain({"arithmetic": (base_right, tuned_right)})


def made_up_gain(tasks):
    """The gain on the first task."""
    if not tasks or any(task.base_value is None for task in tasks.values()):
        return None
    first = next(iter(tasks.values()))
    return paired(round(first.value * first.n), first.n, round(first.base_value * first.n))


def made_up_report(**changes):
    values = {
        "recipe": "smoke",
        "seed": 3,
        "command": "toplora-train recipe=smoke seed=3",
        "protocol_hash": "0123456789abcdef",
        "model": ReportModel("owner/base_model", "abc123", 1_000_000, "float32"),
        "adapter": ReportAdapter(
            "toplora",
            "TOPLORA",
            12_345,
            False,
            {"name": "toplora", "r": 8, "gate": {"activation": "exp", "name": "g"}},
        ),
        "data": ReportData("train.jsonl", 3000, "ab" * 32, 2, 41_230, None, 5, 100),
        "train": ReportTrain(150, 0.8, 2.31, 0.412, 182_340, 0.071, 312.7, 583.1, 2**31, 1, "no"),
        "tasks": {"arithmetic": task_score()},
        "reload": Reload(0.0, [], []),
        "environment": {
            "python": "3.11.9",
            "device": "CPU",
            "git_commit": None,
            "packages": {"peft": "0.21.2"},
        },
    }
    values |= changes
    values.setdefault("gain", made_up_gain(values["tasks"]))
    return Report(**values)


def made_up_metrics(steps=15, **last):
    rows = [
        {
            "step": step * 10,
            "epoch": step / 10,
            "loss": 2 / step,
            "lr": 1e-3 / step,
            "grad_norm": 1.0,
            "tokens": step * 1000,
            "supervised_tokens": step * 200,
            "seconds": step * 2.0,
            "tokens_per_second": 500.0,
            "peak_memory_bytes": 2**31,
        }
        for step in range(1, steps + 1)
    ]
    rows[-1].update(last)
    return rows


def made_up_predictions(right=14, wrong=12):
    return [
        Prediction(
            id=f"test-{index}",
            prompt=f"### Instruction:\nIs {index} < 5 & **odd**?\n\n### Response:\n",
            output=f"said {index}",
            prediction=str(index),
            label=str(index if index < right else -1),
            correct=index < right,
        )
        for index in range(right + wrong)
    ]


HOSTILE = (
    "<script>document.title='run'</script></style></script><img src=x onerror=alert(1)> **bold** "
    "\x1b[31mred\x1b[0m \u202eright to left\u202c \x00 \U0001f600 ${alert(1)}"
)


def made_up_answers(rows):
    """The base and the tuned model's answers: row 0 is hostile, every tenth row is unreadable."""
    base, tuned = [], []
    for row in range(rows):
        prompt = (
            "Below is an instruction.\n\n### Instruction:\n"
            f"Box {row} has {row * 7 % 93} shells. {'Why? ' * (row % 5)}\n\n### Response:\n"
        )
        label = HOSTILE if row == 0 else str(row)
        for answers, right in ((base, row % 3 == 0), (tuned, row % 4 != 1)):
            answer = None if row % 10 == 9 else label if right else str(-row)
            output = f"It is {answer}." if row else HOSTILE
            correct = right and answer is not None
            answers.append(Prediction(f"row-{row}", prompt, output, answer, label, correct))
    return base, tuned


def made_up_run(folder: Path, *, rows=40, steps=60) -> Path:
    """A finished run: report, metrics with a resume, a spike and validations, and predictions."""
    base, tuned = made_up_answers(rows)
    right = [sum(one.correct for one in answers) for answers in (tuned, base)]
    data = ReportData(
        "train.jsonl", 3000, "ab" * 32, 2, 41_230, {"arithmetic": {"rows": 1, "ids": ["row-2"]}}
    )
    report = made_up_report(
        data=data,
        tasks={"arithmetic": task_score(right[0], rows, right[1])},
        gain=gain({"arithmetic": (base, tuned)}),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "report.json", report)
    write_predictions(folder / "predictions" / "arithmetic.jsonl", tuned)
    write_predictions(folder / "predictions" / "arithmetic.base.jsonl", base)
    metrics = made_up_metrics(steps)
    for place, row in enumerate(metrics):
        row["loss"] += 0.1 * (place % 3) + 2 * (place == steps // 2)
        row |= {"loss_spikes": int(place == steps // 2), "update_norm_largest": 0.1}
        if place % 10 == 9:
            row["validation_loss"] = row["loss"] + 0.1
    middle = metrics[steps * 2 // 3]["step"]
    with MetricsFile(folder / "metrics.jsonl") as file:
        for row in metrics:
            if row["step"] <= middle:
                file.append(row)
    with MetricsFile(folder / "metrics.jsonl", resumed_step=middle) as file:
        for row in metrics:
            if row["step"] > middle:
                file.append(row)
    return folder
