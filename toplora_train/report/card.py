"""The model card, ``adapter/README.md``: what a user of the adapter needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.config.printable import printable
from toplora_train.report.card_metadata import (
    Facts,
    front_matter,
    model_name,
    public_command,
    source_name,
    without_folders,
)
from toplora_train.report.card_use import use
from toplora_train.report.contamination import contamination_text
from toplora_train.report.escape import cell, code
from toplora_train.report.numbers import (
    count,
    counted,
    fixed,
    percent,
    percent_interval,
    score_interval,
    score_value,
)
from toplora_train.report.wording import has_head, wording

NO_FACTS = Facts()
OWN_INTERPRETATION = (
    "GenLoRA here is toplora-train's own interpretation of arXiv 2602.05709, whose details were "
    "not available; do not expect it to match the paper's results."
)


def model_card(
    report: Mapping[str, Any],
    *,
    prompt: str | None = None,
    labels: Sequence[str] = (),
    facts: Facts = NO_FACTS,
) -> str:
    """Return the text of the model card.

    Args:
        report: A completed run's ``report.json``.
        prompt: The prompt the adapter was trained on, with ``{instruction}`` as a placeholder.
        labels: The class names of its classification head.
        facts: What the report does not record.
    """
    parts = [
        front_matter(report, facts),
        f"# {cell(report['adapter']['name'])} adapter for {cell(model_name(report))}",
        _summary(report),
        "## Use",
        use(report, prompt=prompt, labels=labels, facts=facts),
        "## Scores",
        _scores(report),
        "## Training",
        _training(report),
        "## Limits",
        _limits(report),
    ]
    return printable("\n\n".join(parts)) + "\n"


def _summary(report: Mapping[str, Any]) -> str:
    adapter, model = report["adapter"], report["model"]
    text = (
        f"PEFT type {cell(adapter['peft_type'])}, {count(adapter['trainable_parameters'])} "
        f"trainable parameters on top of {count(model['parameters'])} frozen ones "
        f"({_identity(model)}). Trained with toplora-train; see the run's `report.html` "
        "for details."
    )
    return f"{text} {OWN_INTERPRETATION}" if adapter["peft_type"] == "GENLORA" else text


def _identity(model: Mapping[str, Any]) -> str:
    digest = model.get("sha256")  # missing in older reports
    suffix = f", SHA-256 of its configuration and weight index {code(digest)}" if digest else ""
    return f"revision {code(model['revision'])}{suffix}"


def _scores(report: Mapping[str, Any]) -> str:
    if not report["tasks"]:
        return "Not evaluated."
    lines = [
        "| task | score | 95 % interval | base model | most frequent answer | rows |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, task in report["tasks"].items():
        base = wording(report).unscored
        if task["metric"] != "accuracy":
            name = f"{name} ({task['metric']})"
        if task["base_ci95"] is not None:
            base = f"{percent(task['base_value'])} ({percent_interval(task['base_ci95'])})"
        lines.append(
            f"| {cell(name)} | {score_value(task, task['metric'])} | "
            f"{score_interval(task, task['metric'])} | {base} | "
            f"{'-' if task['kind'] == 'regress' else percent(task['majority_value'])} | "
            f"{count(task['n'])} |"
        )
    decoding = "" if has_head(report) else ", greedy decoding"
    lines += ["", f"Protocol {code(report['protocol_hash'])}{decoding}."]
    return "\n".join(lines)


def _training(report: Mapping[str, Any]) -> str:
    data, train = report["data"], report["train"]
    given = [data["source"]] if isinstance(data["source"], str) else data["source"]
    sources = ", ".join(map(source_name, given))
    return "\n".join(
        [
            f"- {counted(data['rows'], 'row')} of {cell(sources)}, SHA-256 {code(data['sha256'])}",
            f"- {counted(train['steps'], 'step')}, {train['epochs']:.2f} epochs, loss per "
            f"{wording(report).unit} {fixed(train['loss_first'])} at the start, "
            f"{fixed(train['loss_last'])} at the end",
            *_start(report["adapter"].get("start")),
            f"- seed {report['seed']}: {code(public_command(report['command']))}",
        ]
    )


def _start(start: Mapping[str, Any] | None) -> list[str]:
    if start is None:
        return []
    path = cell(without_folders(start["path"]))
    return [f"- started from the adapter {path}, SHA-256 {code(start['sha256'])}"]


def _limits(report: Mapping[str, Any]) -> str:
    data = report["data"]
    notes = ["One seed: scores vary with the seed."]
    notes.append(f"Test rows in the training data: {cell(contamination_text(report))}.")
    if data["truncated_rows"]:
        notes.append(f"{count(data['truncated_rows'])} training rows had their answer truncated.")
    if data["dropped_rows"]:
        notes.append(f"{count(data['dropped_rows'])} rows were too long and were dropped.")
    notes.append(
        "It was evaluated only on the tasks above. The base model's limitations apply, "
        "and its licence and those of the training rows."
    )
    return "\n".join(f"- {note}" for note in notes)
