"""Render ``report.md`` and ``report.html``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from toplora_train.evaluation.predictions import Prediction
from toplora_train.report import numbers
from toplora_train.report.charts import score_chart, training_chart
from toplora_train.report.contamination import clean_scores, contamination_text
from toplora_train.report.escape import cell, code, fenced, finalize
from toplora_train.report.examples import confusion, pick_examples
from toplora_train.report.expected import expected_table
from toplora_train.report.gain import gain_text
from toplora_train.report.json_file import write_text_atomically
from toplora_train.report.wording import has_head, head_verdict, wording

FIGURES = "figures"
PROTOCOLS = {
    "clean": "Answers are generated with greedy decoding.",
    "legacy.toplora": "Protocol of TopLoRA's scripts, for reproduction only.",
    "legacy.llm_adapters": "Protocol of LLM-Adapters' and DoRA's scripts, for reproduction only.",
}


def write_pages(
    run_dir: Path,
    report: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[Prediction]],
) -> None:
    """Write ``report.md`` (with its charts in ``figures/``) and a self-contained ``report.html``.

    Args:
        run_dir: The run directory.
        report: A completed run's ``report.json``.
        metrics: The rows of ``metrics.jsonl``.
        predictions: Each task's predictions, by task name.
    """
    if metrics:
        write_text_atomically(
            run_dir / FIGURES / "training.svg", training_chart(metrics, inline=False)
        )
    if report["tasks"]:
        write_text_atomically(
            run_dir / FIGURES / "scores.svg", score_chart(report["tasks"], inline=False)
        )
    markdown = render_markdown(report, predictions, with_training_chart=bool(metrics))
    write_text_atomically(run_dir / "report.md", markdown)
    write_text_atomically(run_dir / "report.html", render_html(report, metrics, predictions))


def render_markdown(
    report: Mapping[str, Any],
    predictions: Mapping[str, Sequence[Prediction]],
    *,
    with_training_chart: bool = True,
) -> str:
    """Return the text of ``report.md``; its charts are files in ``figures/``."""
    template = templates(escape=False).get_template("report.md.j2")
    text = template.render(
        **_content(report, predictions), figures=FIGURES, with_training_chart=with_training_chart
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def render_html(
    report: Mapping[str, Any],
    metrics: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[Prediction]],
) -> str:
    """Return a self-contained ``report.html`` without scripts, with light and dark themes."""
    template = templates(escape=True).get_template("report.html.j2")
    return template.render(
        **_content(report, predictions),
        training_chart=training_chart(metrics, inline=True) if metrics else None,
        score_chart=score_chart(report["tasks"], inline=True) if report["tasks"] else None,
    )


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


def _content(
    report: Mapping[str, Any], predictions: Mapping[str, Sequence[Prediction]]
) -> dict[str, Any]:
    examples = {name: pick_examples(predictions.get(name, ())) for name in report["tasks"]}
    return {
        "report": report,
        "headline": headline(report),
        "verdict": verdict(report),
        "words": wording(report),
        "contamination": contamination_text(report),
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
        "settings": dict(_settings(report["adapter"]["settings"])),
        "confusion": {
            name: table
            for name, task in report["tasks"].items()
            if task.get("kind") == "classify"
            and (table := confusion(predictions.get(name, ()))) is not None
        },
        "examples": {name: picked for name, picked in examples.items() if any(picked)},
    }


def _settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The adapter's settings under their command-line names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _settings(value, f"{prefix}{key}.")
        elif prefix or key != "name":
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


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
