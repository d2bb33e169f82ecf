"""The model card, ``adapter/README.md``: what a user of the adapter needs to know.

The text is ``templates/card.md.j2``, with code that loads the adapter and lets it answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toplora_train.config.printable import printable
from toplora_train.report import card_metadata as metadata
from toplora_train.report.pages import templates
from toplora_train.report.sections import contamination_text
from toplora_train.report.wording import has_head, has_images, wording

NO_FACTS = metadata.Facts()
# PEFT types that are registered with PEFT by importing this package.
NEEDS_IMPORT = frozenset({"TOPLORA", "TENSLORA", "GENLORA", "SBORA", "ORTHOGONAL", "FUSION"})
FOLDER = "FOLDER_OF_THIS_FILE"
_QUESTION = "How many legs do three dogs have?"
_COMMIT = re.compile(r"[0-9a-f]{40}")
# The revision of dequantised weights from a Python package: its name and version.
_PACKAGE = re.compile(r"([\w.-]+) ([\w.+-]+), .* dequantised")


def model_card(
    report: Mapping[str, Any],
    *,
    prompt: str | None = None,
    labels: Sequence[str] = (),
    facts: metadata.Facts = NO_FACTS,
) -> str:
    """Return the text of the model card.

    Args:
        report: A completed run's ``report.json``.
        prompt: The prompt the adapter was trained on, with ``{instruction}`` as a placeholder.
        labels: The class names of its classification head.
        facts: What the report does not record.
    """
    model, data, adapter = report["model"], report["data"], report["adapter"]
    head, local = has_head(report), metadata.is_local(report)
    package = _PACKAGE.fullmatch(model["revision"])
    filled = (prompt or "{instruction}").replace("{instruction}", _QUESTION)
    sources = [data["source"]] if isinstance(data["source"], str) else data["source"]
    text = templates(escape=False).get_template("card.md.j2")
    return printable(
        text.render(
            report=report,
            facts=facts,
            front_matter=metadata.front_matter(report, facts),
            name=metadata.model_name(report),
            words=wording(report),
            head=head,
            local=local,
            package=package,
            built_in=model["revision"] == "built in" and not head,
            images=has_images(report),
            auto_class="AutoModelForImageClassification"
            if has_images(report)
            else "AutoModelForSequenceClassification"
            if head
            else "AutoModelForCausalLM",
            base_arguments=_base_arguments(report, labels, in_package=package is not None),
            module=facts.module
            or ("toplora_train" if adapter["peft_type"] in NEEDS_IMPORT else None),
            rows=model.get("embedding_rows"),  # earlier reports have none
            folder=FOLDER,
            chat=data.get("wording") == "chat",
            question=_QUESTION,
            prompt=prompt,
            filled=filled,
            has_columns=re.search(r"\{\w+\}", filled),
            ending=_ending(prompt or ""),
            sources=", ".join(map(metadata.source_name, sources)),
            start=metadata.without_folders(adapter["start"]["path"])
            if adapter.get("start")
            else "",
            command=metadata.public_command(report["command"]),
            contamination=contamination_text(report),
        ).strip()
        + "\n"
    )


def _base_arguments(report: Mapping[str, Any], labels: Sequence[str], *, in_package: bool) -> str:
    """The arguments that load the base model that was trained on, not another copy of it."""
    model = report["model"]
    place = '"FOLDER_OF_THE_BASE_MODEL"' if metadata.is_local(report) else repr(str(model["path"]))
    arguments = ["folder" if in_package else place]
    if _COMMIT.fullmatch(model["revision"]):
        arguments.append(f'revision="{model["revision"]}"')
    arguments.append(f"dtype={model['dtype']!r}")
    if has_head(report):  # the adapter file contains the head's weights but not its class names
        arguments.append(f"id2label={dict(enumerate(labels))}" if labels else "num_labels=1")
    return ", ".join(arguments)


def _ending(prompt: str) -> str:
    """What a prompt ends in, which its readers cannot see."""
    tail = prompt[len(prompt.rstrip()) :]
    return "in a line break" if "\n" in tail else "in a space" if tail else "without a line break"
