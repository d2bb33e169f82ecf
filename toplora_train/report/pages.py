"""Render ``report.md`` and ``report.html``."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import write_text_atomically
from toplora_train.evaluation.predictions import Prediction, read_predictions
from toplora_train.report import numbers
from toplora_train.report.answers import FILTERS, LONGEST, PAGE_BYTES, answer_table, pack
from toplora_train.report.curves import curve_table, training_curves
from toplora_train.report.escape import cell, code, fenced, finalize
from toplora_train.report.gain import gain_text
from toplora_train.report.inspection import FOLDER, inspection_view
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.record import completed_report, run_of
from toplora_train.report.sections import (
    clean_scores,
    confusion,
    contamination_text,
    cut_off_text,
    expected_table,
)
from toplora_train.report.wording import has_head, head_verdict, wording

PROTOCOLS = {
    "clean": "Answers are generated with greedy decoding.",
    "legacy.toplora": "Protocol of TopLoRA's scripts, for reproduction only.",
    "legacy.llm_adapters": "Protocol of LLM-Adapters' and DoRA's scripts, for reproduction only.",
}
Answers = Mapping[str, Sequence[Prediction]]


def write_pages(folder: Path, report: Mapping[str, Any]) -> None:
    """Write ``report.md`` and a self-contained ``report.html``.

    Args:
        folder: A run, or a later evaluation of one, with its ``predictions/``; the page shows those
            that are there, and the steps of the run's ``metrics.jsonl``.
        report: The ``report.json`` of a completed run.

    Raises:
        UserError: One of these files is there but cannot be read.
    """
    home = run_of(folder)
    log = home / "metrics.jsonl"
    metrics = read_metrics(log) if log.exists() else []
    tuned, base = (
        {
            task: read_predictions(path)
            for task in report["tasks"]
            if (path := folder / "predictions" / f"{task}{suffix}.jsonl").exists()
        }
        for suffix in ("", ".base")
    )
    write_text_atomically(folder / "report.md", render_markdown(report, tuned))
    inspection = inspection_view(folder)
    write_text_atomically(
        folder / "report.html", render_html(report, metrics, tuned, base, inspection)
    )


def rewrite_pages(folder: Path) -> Path:
    """Write a finished run's pages anew from its files; return the path of ``report.html``.

    Raises:
        UserError: The run is not completed, or one of its files cannot be read.
    """
    write_pages(folder, completed_report(folder))
    return folder / "report.html"


def render_markdown(report: Mapping[str, Any], predictions: Answers) -> str:
    """Return the text of ``report.md``."""
    template = templates(escape=False).get_template("report.md.j2")
    text = template.render(**_content(report, predictions))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_html(
    report: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    predictions: Answers,
    base: Answers | None = None,
    inspection: Mapping[str, Any] | None = None,
) -> str:
    """Return ``report.html``: no request leaves it, and no script but its own runs in it.

    Args:
        report: The ``report.json`` of a completed run.
        metrics: The rows of ``metrics.jsonl``.
        predictions: Each task's answers of the tuned model.
        base: Those of the base model.
        inspection: What was measured of the adapter, as ``inspection_view`` returns it.
    """
    content = _content(report, predictions)
    curves = training_curves(metrics, content["words"].unit)
    return render_page(
        "report.html.j2",
        inspection,
        **content,
        scale=score_scale(report),
        curves=curves,
        packed_curves=pack(curves),
        values=curve_table(metrics),
        answers=_answers(report, predictions, base or {}),
        filters=FILTERS,
        longest=LONGEST,
    )


def render_page(template: str, inspection: Mapping[str, Any] | None, **content: Any) -> str:
    """Return an interactive page: a template that extends ``page.html.j2``."""
    environment = templates(escape=True)
    style = _source(environment, "report.css") + _source(environment, "run.css")
    script = _source(environment, "report.js") + _source(environment, "adapter.js")
    return environment.get_template(template).render(
        **content,
        inspection=inspection,
        packed_adapter=pack(inspection["page"]) if inspection else "",
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def score_scale(report: Mapping[str, Any]) -> dict[str, Any]:
    """Where the picture of the scores has its marks, in percent of its width.

    Returns:
        ``low`` (0, or -100 where a correlation is negative) and for each task ``tuned`` and
        ``base`` (value, low and high bound; None if not evaluated) and ``majority``.
    """
    tasks = report["tasks"].values()
    low = -1.0 if any(min(task["value"], *task["ci95"]) < 0 for task in tasks) else 0.0

    def places(*values: float) -> list[float]:
        return [round(min(100, max(0, 100 * (v - low) / (1 - low))), 2) for v in values]

    return {
        "low": round(100 * low),
        "tasks": {
            name: {
                "tuned": places(task["value"], *task["ci95"]),
                "base": places(task["base_value"], *task["base_ci95"])
                if task["base_ci95"]
                else None,
                "majority": None
                if task.get("kind") == "regress"
                else places(task["majority_value"])[0],
            }
            for name, task in report["tasks"].items()
        },
    }


def _answers(report: Mapping[str, Any], tuned: Answers, base: Answers) -> dict[str, dict[str, Any]]:
    """The table of each task's answers; the page's room is divided by the number of rows."""
    total = sum(map(len, tuned.values()))
    seen = report["data"]["contamination"] or {}
    return {
        task: answer_table(
            task,
            rows,
            base.get(task, ()),
            seen=frozenset(seen.get(task, {}).get("ids", ())),
            most_bytes=PAGE_BYTES * len(rows) // total,
        )
        for task, rows in tuned.items()
        if rows
    }


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    """The source expression that allows ``text`` in a content security policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def headline(report: Mapping[str, Any]) -> str:
    """Return the result in one line, with its confidence interval.

    ``Base 12.0 % → tuned 64.0 % (+52.0 points, paired 95 % interval +47.0 to +56.9)``. For several
    tasks these are means. See :mod:`toplora_train.report.gain` for the interval.
    """
    tuned, interval = report["average"], report["average_ci95"]
    if tuned is None:
        return "Trained, not evaluated"
    if numbers.any_undefined(report):
        return "Trained; the score is undefined because all labels or all answers are identical"
    mean = " on average" if len(report["tasks"]) > 1 else ""
    gain, base = report.get("gain"), report["average_base_value"]
    if gain is None or base is None:
        return (
            f"Tuned {numbers.percent(tuned)}{mean} "
            f"(95 % interval {numbers.percent_interval(interval)})"
        )
    low, high = gain["ci95"]
    return (
        f"Base {numbers.percent(base)} \N{RIGHTWARDS ARROW} tuned {numbers.percent(tuned)}{mean} "
        f"({numbers.points(tuned - base)} points, "
        f"paired 95 % interval {numbers.points(low)} to {numbers.points(high)})"
    )


def verdict(report: Mapping[str, Any]) -> str:
    """Return the interpretation of the headline."""
    if has_head(report):
        return head_verdict(report)
    gain = report.get("gain")
    if gain is None:
        return "The base model was not evaluated, so the gain is unknown."
    if gain["ci95"][0] > 0:
        return "The tuned model is better than its base model."
    if gain["ci95"][1] < 0:
        return "The tuned model is worse than its base model."
    return "The difference between the tuned model and its base model is not significant."


def _content(report: Mapping[str, Any], predictions: Answers) -> dict[str, Any]:
    settings = dict(_settings(report["adapter"]["settings"]))
    line = headline(report)
    result, _, interval = line.partition(" (")
    return {
        "report": report,
        "headline": line,
        "result": result,
        "interval": interval.removesuffix(")"),
        "verdict": verdict(report),
        "words": wording(report),
        "contamination": contamination_text(report),
        "cut_off": cut_off_text(report),
        "expected": expected_table(report),
        "gain": gain_text(report),
        "protocol": ""
        if has_head(report)
        else PROTOCOLS.get(report["protocol"], f"Protocol {report['protocol']}."),
        "mismatch": (
            f"The protocol {report['protocol']} tokenizes prompts differently in training and "
            f"evaluation: {report['data']['prompt_mismatches']:,} of {report['data']['rows']:,} "
            "training rows do not start with the prompt tokens that evaluation uses."
        ),
        "clean": clean_scores(report, predictions),
        "confusion": {
            name: table
            for name, task in report["tasks"].items()
            if task.get("kind") == "classify"
            and (table := confusion(predictions.get(name, ()))) is not None
        },
        "settings": {key: value for key, value in settings.items() if value != "null"},
        "unset": [key for key, value in settings.items() if value == "null"],
    }


def _settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The adapter's settings under their command-line names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        elif prefix or key != "name":
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


@cache
def quoted(text: str) -> str:
    """The text in quotation marks, with its line breaks as escapes."""
    return json.dumps(text, ensure_ascii=False)


def templates(*, escape: bool) -> Environment:
    """The Jinja environment of this package's templates; ``escape`` for HTML."""
    environment = Environment(
        loader=PackageLoader("toplora_train.report"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    for formatter in (
        numbers.percent,
        numbers.percent_interval,
        numbers.score_value,
        numbers.score_interval,
        numbers.counted,
        numbers.points,
        numbers.fixed,
        numbers.count,
        numbers.memory,
        numbers.readable_seconds,
        loss_change,
        fenced,
        cell,
        code,
        quoted,
        repr,
    ):
        environment.filters[formatter.__name__] = formatter
    return environment


def loss_change(forgetting: Mapping[str, Any]) -> str:
    """The change of the loss on general text, as in ``report.json``."""
    low, high = forgetting["ci95"]
    interval = "" if low is None else f" ({low:+.4f} to {high:+.4f})"
    return (
        f"{forgetting['text']}: {forgetting['before']:.4f} -> {forgetting['after']:.4f}, "
        f"{forgetting['difference']:+.4f}{interval} nats per token on "
        f"{numbers.counted(forgetting['documents'], 'text')}, {forgetting['tokens']:,} tokens"
    )


def write_inspection_page(folder: Path) -> Path:
    """Write ``folder/inspection/inspection.html`` and return its path.

    Raises:
        UserError: The adapter was not measured, or a file cannot be read.
    """
    view = inspection_view(folder)
    if view is None:
        raise UserError(f"{folder / FOLDER}: no inspection.json; measure with toplora-inspect")
    path = folder / FOLDER / "inspection.html"
    write_text_atomically(path, render_page("inspection.html.j2", view))
    return path
