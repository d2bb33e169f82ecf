"""The model card: ``adapter/README.md``, what someone who downloads the adapter must know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from toplora_train.report.contamination import contamination_text
from toplora_train.report.numbers import (
    count,
    counted,
    percent,
    percent_interval,
    score_interval,
    score_value,
)
from toplora_train.report.wording import has_head, wording

# PEFT types that PEFT itself does not know: they exist once this package has been imported.
NEEDS_IMPORT = frozenset({"TOPLORA", "TENSLORA", "GENLORA"})

OWN_READING = (
    "Its GenLoRA is toplora-train's own reading of arXiv 2602.05709, whose details were not "
    "readable; the paper's results may not be expected of it."
)


def model_card(
    report: Mapping[str, Any], *, prompt: str | None = None, labels: Sequence[str] = ()
) -> str:
    """Return the text of the model card.

    Args:
        report: A completed run's ``report.json``.
        prompt: The prompt that the adapter was trained on, its question written ``{instruction}``.
        labels: The names of the classes that its head tells apart.
    """
    parts = [
        _front_matter(report),
        f"# {report['adapter']['name']} adapter for {report['model']['path']}",
        _summary(report),
        "## Use",
        _loading(report, labels),
        *([_prompt(prompt, chat=report["data"].get("wording") == "chat")] if prompt else []),
        "## Scores",
        _scores(report),
        "## Training",
        _training(report),
        "## Limits",
        _limits(report),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(report: Mapping[str, Any]) -> str:
    front = {
        "base_model": report["model"]["path"],
        "library_name": "peft",
        "pipeline_tag": "text-classification" if has_head(report) else "text-generation",
        "tags": ["toplora-train", report["adapter"]["name"], "adapter"],
    }
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{text}\n---"


def _summary(report: Mapping[str, Any]) -> str:
    adapter, model = report["adapter"], report["model"]
    text = (
        f"PEFT type {adapter['peft_type']}, {count(adapter['trainable_parameters'])} trainable "
        f"parameters on top of {count(model['parameters'])} frozen ones "
        f"({_identity(model)}). Trained with toplora-train; the run's `report.html` "
        "has every detail."
    )
    return f"{text} {OWN_READING}" if adapter["peft_type"] == "GENLORA" else text


def _identity(model: Mapping[str, Any]) -> str:
    digest = model.get("sha256")  # earlier reports have none
    known = f", SHA-256 of its configuration and weight index `{digest}`" if digest else ""
    return f"revision `{model['revision']}`{known}"


def _loading(report: Mapping[str, Any], labels: Sequence[str]) -> str:
    kind = report["adapter"]["peft_type"]
    auto, head = "AutoModelForCausalLM", ""
    if has_head(report):  # the adapter's file has the head's weights, not its classes
        auto = "AutoModelForSequenceClassification"
        head = f", id2label={dict(enumerate(labels))}" if labels else ", num_labels=1"
    needs_import = kind in NEEDS_IMPORT
    lines = ["```python"]
    if needs_import:
        lines.append(f"import toplora_train  # makes PEFT know {kind}; keep it first")
    lines += [
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'base = {auto}.from_pretrained("{report["model"]["path"]}"{head})',
        'model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_FILE")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OF_THIS_FILE")',
        "```",
    ]
    text = "\n".join(lines)
    if needs_import:
        text += (
            f"\n\nWithout `import toplora_train` (from `pip install toplora-train`) PEFT answers "
            f"`KeyError: '{kind}'`."
        )
    if not report["adapter"]["mergeable"]:
        text += "\n\nThis adapter cannot be merged into the base weights; load it as shown."
    return text


def _prompt(prompt: str, *, chat: bool) -> str:
    if chat:
        return (
            "It was trained on conversations in the base model's own chat template, which the "
            "tokenizer beside this file carries, and on no other wording; of each, the last "
            "assistant message was learned. Ask with "
            "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`, which words a "
            f"user's single message as\n\n```text\n{prompt.rstrip()}\n```"
        )
    tail = prompt[len(prompt.rstrip()) :]
    end = "in a line break" if "\n" in tail else "in a space" if tail else "without a line break"
    return (
        f"It answers this prompt, which ends {end}, and was trained on no other:\n\n"
        f"```text\n{prompt.rstrip()}\n```"
    )


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
            f"| {name} | {score_value(task, task['metric'])} | "
            f"{score_interval(task, task['metric'])} | {base} | "
            f"{'-' if task['kind'] == 'regress' else percent(task['majority_value'])} | "
            f"{count(task['n'])} |"
        )
    decoding = "" if has_head(report) else ", greedy decoding"
    lines += ["", f"Protocol `{report['protocol_hash']}`{decoding}."]
    return "\n".join(lines)


def _training(report: Mapping[str, Any]) -> str:
    data, train = report["data"], report["train"]
    source = data["source"] if isinstance(data["source"], str) else ", ".join(data["source"])
    return "\n".join(
        [
            f"- {counted(data['rows'], 'row')} of {source}, SHA-256 `{data['sha256']}`",
            f"- {counted(train['steps'], 'step')}, {train['epochs']:.2f} epochs, loss per "
            f"{wording(report).unit} {train['loss_first']:.4f} at first, "
            f"{train['loss_last']:.4f} at last",
            *_start(report["adapter"].get("start")),
            f"- seed {report['seed']}: `{report['command']}`",
        ]
    )


def _start(start: Mapping[str, Any] | None) -> list[str]:
    if start is None:
        return []
    return [f"- started from the adapter {start['path']}, SHA-256 `{start['sha256']}`"]


def _limits(report: Mapping[str, Any]) -> str:
    data = report["data"]
    notes = ["One seed: another one would give another score."]
    notes.append(f"Test rows among the training rows: {contamination_text(report)}.")
    if data["truncated_rows"]:
        notes.append(f"{count(data['truncated_rows'])} training rows lost the end of their answer.")
    if data["dropped_rows"]:
        notes.append(f"{count(data['dropped_rows'])} rows were too long and left out.")
    notes.append(
        "It was scored on the tasks above only; it has the base model's faults and licence."
    )
    return "\n".join(f"- {note}" for note in notes)
