"""The model card, ``adapter/README.md``: what a user of the adapter needs to know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from toplora_train.config.printable import printable
from toplora_train.report.contamination import contamination_text
from toplora_train.report.escape import cell, code, fenced
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

# PEFT types that are registered with PEFT by importing this package.
NEEDS_IMPORT = frozenset({"TOPLORA", "TENSLORA", "GENLORA"})

OWN_INTERPRETATION = (
    "GenLoRA here is toplora-train's own interpretation of arXiv 2602.05709, whose details were "
    "not available; do not expect it to match the paper's results."
)


def model_card(
    report: Mapping[str, Any], *, prompt: str | None = None, labels: Sequence[str] = ()
) -> str:
    """Return the text of the model card.

    Args:
        report: A completed run's ``report.json``.
        prompt: The prompt the adapter was trained on, with ``{instruction}`` as a placeholder.
        labels: The class names of its classification head.
    """
    parts = [
        _front_matter(report),
        f"# {cell(report['adapter']['name'])} adapter for {cell(report['model']['path'])}",
        _summary(report),
        "## Use",
        _loading(report, labels),
        *([_prompt(prompt, report["data"])] if prompt else []),
        "## Scores",
        _scores(report),
        "## Training",
        _training(report),
        "## Limits",
        _limits(report),
    ]
    return printable("\n\n".join(parts)) + "\n"


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


def _loading(report: Mapping[str, Any], labels: Sequence[str]) -> str:
    kind = report["adapter"]["peft_type"]
    auto, head = "AutoModelForCausalLM", ""
    if has_head(report):  # the adapter file contains the head's weights but not its class names
        auto = "AutoModelForSequenceClassification"
        head = f", id2label={dict(enumerate(labels))}" if labels else ", num_labels=1"
    rows = report["model"].get("embedding_rows")  # earlier reports have none
    needs_import = kind in NEEDS_IMPORT
    lines = ["```python"]
    if needs_import:
        lines.append(f"import toplora_train  # registers {kind} with PEFT; import it first")
    lines += [
        "from peft import PeftModel",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f"base = {auto}.from_pretrained({json.dumps(report['model']['path'])}{head})",
        *([f"base.resize_token_embeddings({rows}, mean_resizing=False)"] if rows else []),
        'model = PeftModel.from_pretrained(base, "FOLDER_OF_THIS_FILE")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER_OF_THIS_FILE")',
        "```",
    ]
    text = "\n".join(lines)
    if needs_import:
        text += (
            f"\n\nWithout `import toplora_train` (from `pip install toplora-train`), PEFT raises "
            f"`KeyError: '{kind}'`."
        )
    if rows:
        text += (
            "\n\nThe base model must be resized first, as shown: the tokenizer beside this file "
            "has more tokens than the base model's embedding has rows. All rows, old and new, are "
            "in this adapter's file."
        )
    if not report["adapter"]["mergeable"]:
        text += "\n\nThis adapter cannot be merged into the base weights; load it as shown."
    return text


def _prompt(prompt: str, data: Mapping[str, Any]) -> str:
    if data.get("wording") == "chat":
        which = "every" if data.get("learn") == "assistant" else "the last"
        return (
            "It was trained only on conversations in the base model's chat template, which is "
            "saved with the tokenizer next to this file. The loss was computed on "
            f"{which} assistant message of each conversation. Build prompts with "
            "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`; a single user "
            f"message becomes\n\n{fenced(prompt.rstrip())}"
        )
    tail = prompt[len(prompt.rstrip()) :]
    end = "in a line break" if "\n" in tail else "in a space" if tail else "without a line break"
    return f"It was trained only on this prompt, which ends {end}:\n\n{fenced(prompt.rstrip())}"


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
    source = data["source"] if isinstance(data["source"], str) else ", ".join(data["source"])
    return "\n".join(
        [
            f"- {counted(data['rows'], 'row')} of {cell(source)}, SHA-256 {code(data['sha256'])}",
            f"- {counted(train['steps'], 'step')}, {train['epochs']:.2f} epochs, loss per "
            f"{wording(report).unit} {fixed(train['loss_first'])} at the start, "
            f"{fixed(train['loss_last'])} at the end",
            *_start(report["adapter"].get("start")),
            f"- seed {report['seed']}: {code(report['command'])}",
        ]
    )


def _start(start: Mapping[str, Any] | None) -> list[str]:
    if start is None:
        return []
    return [f"- started from the adapter {cell(start['path'])}, SHA-256 {code(start['sha256'])}"]


def _limits(report: Mapping[str, Any]) -> str:
    data = report["data"]
    notes = ["One seed: scores vary with the seed."]
    notes.append(f"Test rows in the training data: {cell(contamination_text(report))}.")
    if data["truncated_rows"]:
        notes.append(f"{count(data['truncated_rows'])} training rows had their answer truncated.")
    if data["dropped_rows"]:
        notes.append(f"{count(data['dropped_rows'])} rows were too long and were dropped.")
    notes.append(
        "It was evaluated only on the tasks above. The base model's limitations and licence apply."
    )
    return "\n".join(f"- {note}" for note in notes)
