"""The YAML header of the model card, which the hub reads: licence, language, data sets, scores."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from toplora_train.config.decoding import longest_answer
from toplora_train.config.locate import options
from toplora_train.config.plugins import plugin
from toplora_train.config.schema import RunConfig
from toplora_train.data.files import is_file_name
from toplora_train.data.parts import HELD_OUT, REST_OF
from toplora_train.models.known import known_model
from toplora_train.report.numbers import percent_interval
from toplora_train.report.wording import has_head, has_images

OWN_ROWS = ("jsonl", "table", "images")  # data sets' options that are for rows of one's own
NO_ADDRESS = ("local folder", "built in")
# The hub's tags that need a name of their own: `license: other` with `license_name`.
_OTHER_LICENCES = frozenset({"qwen-research"})
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@[\w.-]+)?")
_PART = r"[^,'\"\[\]{}/\\]+"
_ABSOLUTE = re.compile(  # after "rest-of:" too, but not of a URL
    rf"(?<![\w./~])(?:~|[A-Za-z]:)?[/\\](?![/\\])(?:{_PART}[/\\])*({_PART})"
)
_BUNDLED = re.compile(r".*/data/bundled/(.+)")


@dataclass(frozen=True)
class Facts:
    """What the card states and the report does not record.

    Attributes:
        licence: The hub's tag of the base model's licence; None if unknown.
        language: The language code of the rows; None if unknown.
        sources: Each task's source by the task's name, a hub id or another form.
        max_new_tokens: The most tokens of an answer in the evaluation.
        module: The module of the author's own that registers the method with PEFT, if any.
    """

    licence: str | None = None
    language: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    max_new_tokens: int = 64
    module: str | None = None

    @classmethod
    def of(cls, config: RunConfig) -> Facts:
        """The facts about a run's model and data sets, as far as they ship with this package."""
        adapter = str(config.adapter["name"])
        known, data = known_model(config.model.path), config.dataset
        own = data.name in OWN_ROWS or data.name not in options("dataset") or data.test is not None
        return cls(
            licence=None if known is None else known.licence,
            language=None if own else "en",
            sources={name: task.source for name, task in config.task.items()},
            max_new_tokens=longest_answer(config),
            module=adapter if plugin("adapter", adapter) else None,
        )


def front_matter(report: Mapping[str, Any], facts: Facts) -> str:
    """The header: what is unknown is left out.

    Args:
        report: A completed run's ``report.json``.
        facts: What the report does not record.
    """
    name, kind = report["adapter"]["name"], "text-generation"
    if has_head(report):
        kind = "image-classification" if has_images(report) else "text-classification"
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=_hub_id(facts.sources.get(task, "")) or task,
            dataset_name=task,
            metric_type=score["metric"],
            metric_name=f"{score['metric']}, 95 % interval {percent_interval(score['ci95'])}, "
            f"n = {score['n']}",
            metric_value=round(100 * score["value"], 2),
        )
        for task, score in report["tasks"].items()
        if score["value"] is not None  # NaN, which JSON does not have
    ]
    sources = report["data"]["source"]
    sources = [sources] if isinstance(sources, str) else sources
    other = facts.licence in _OTHER_LICENCES
    data = ModelCardData(
        base_model=_hub_id(report["model"]["path"])
        if report["model"]["revision"] not in NO_ADDRESS
        else None,
        datasets=[found for one in sources if (found := _hub_id(one))] or None,
        language=facts.language,
        library_name="peft",
        license="other" if other else facts.licence,
        license_name=facts.licence if other else None,
        model_name=f"{name} adapter for {model_name(report)}" if results else None,
        eval_results=results or None,
        pipeline_tag=kind,
        tags=["toplora-train", name, "adapter"],
    )
    content: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]  # untyped in its package
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{text}\n---"


def is_local(report: Mapping[str, Any]) -> bool:
    """Whether the base model was read from a folder of the user's, which has no address."""
    return bool(report["model"]["revision"] == "local folder")


def model_name(report: Mapping[str, Any]) -> str:
    """The base model's hub id, or the name of its folder without the way to it."""
    return without_folders(report["model"]["path"])


def source_name(source: str) -> str:
    """A data source as others know it: without the folders of this machine."""
    bundled = _BUNDLED.fullmatch(source)
    return f"bundled:{bundled[1]}" if bundled else without_folders(source)


def public_command(command: str) -> str:
    """A command line with absolute paths cut to their last part; prompts are not cut."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by shlex.join
        return without_folders(command)
    return shlex.join(
        word if is_text(word.partition("=")[0]) else without_folders(word) for word in words
    )


def is_text(key: str) -> bool:
    """Whether a setting is text of its own, in which a slash or backslash begins no path."""
    return key.rpartition(".")[2] in ("prompt", "response")


def without_folders(text: str) -> str:
    """The text with every absolute path cut to its last part."""
    return _ABSOLUTE.sub(r"\1", text)


def _hub_id(source: str) -> str | None:
    found = _HUB_ID.fullmatch(source.removeprefix(REST_OF).removeprefix(HELD_OUT))
    return None if found is None or is_file_name(Path(found[1])) else found[1]  # data/test.jsonl
