"""Gather a finished run into its report, and say the essence of it on the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator

from toplora_train.adapters.saving import file_digests
from toplora_train.config.errors import RunFailure
from toplora_train.config.schema import ModelSettings, RunConfig
from toplora_train.data.batches import padding_fraction
from toplora_train.data.cache import writes_the_date
from toplora_train.data.prompts import PROMPT_VERSION
from toplora_train.evaluation.answers import row_label
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import find_method, protocol_of
from toplora_train.evaluation.metrics import as_numbers, find_metric
from toplora_train.evaluation.run_evaluation import Score
from toplora_train.evaluation.statistics import majority_share
from toplora_train.models.embedding import vocabulary_size
from toplora_train.models.identity import model_digest
from toplora_train.report import numbers, record
from toplora_train.report.environment import environment
from toplora_train.report.gain import read_gain
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.pages import loss_change, verdict
from toplora_train.report.sections import matching
from toplora_train.run.fit.best_checkpoint import BestCheckpoint
from toplora_train.run.fit.optimization import adjustments, padded_together
from toplora_train.run.platform.device import device_name
from toplora_train.run.prepare.extension import Extension
from toplora_train.run.prepare.run_data import RunData, total_steps
from toplora_train.run.prepare.start_from import StartFrom
from toplora_train.train.checkpoint import TrainState
from toplora_train.train.sampler import remaining_batches

CHAT = "; conversations in the model's own chat template, loss on the last assistant message"


def introduction(config: RunConfig, run_data: RunData, start: TrainState) -> str:
    """What the run is about to do, in a few lines."""
    total = total_steps(config, run_data.lengths)
    tests = (
        ", ".join(
            f"{t.name} ({numbers.counted(len(t.rows.rows), 'row')})" for t in run_data.eval_sets
        )
        or "none"
    )
    resumed = f", resuming after step {start.step}" if start.step else ""
    head = f"\nhead: {run_data.head.said}" if run_data.head is not None else ""
    rows = _embedding_rows(config, run_data)
    resized = (
        f"\nembedding: resized to {numbers.count(rows)} rows for the tokenizer's tokens; it and "
        "the output layer, if there is one, are trained and saved with the adapter"
        if rows is not None
        else ""
    )
    special = "".join(f"\n{sentence}" for sentence in run_data.special_tokens.sentences)
    return (
        f"{config.adapter['name']} on {run_data.location.name} ({run_data.location.revision}): "
        f"{numbers.counted(len(run_data.train), 'row')}, {numbers.counted(total, 'step')} of "
        f"{config.trainer.batch_size}{resumed}\n"
        f"tokens: {run_data.tokens_from}{CHAT if run_data.wording == 'chat' else ''}\n"
        f"evaluated on {tests}\n"
        f"test questions found in the training rows: {overlap(run_data)}{head}{resized}{special}"
    )


def _embedding_rows(config: RunConfig, run_data: RunData) -> int | None:
    return vocabulary_size(run_data.tokenizer) if config.model.resize_embeddings else None


def overlap(run_data: RunData) -> str:
    """How many test questions of each task also occur in the training rows."""
    found = [
        f"{eval_set.name} {len(run_data.contaminated[eval_set.name])} of {len(eval_set.rows.rows)}"
        for eval_set in run_data.eval_sets
        if run_data.contaminated[eval_set.name]
    ]
    return ", ".join(found) or "none"


@dataclass(frozen=True)
class Outcome:
    """The results of a finished run.

    Attributes:
        base_parameters: Parameters of the base model.
        planned_memory: Bytes that a process was expected to take; None if unknown.
        described: What describes the adapter, see :mod:`toplora_train.adapters.describe`.
        base_scores: The base model's scores; empty where it was not evaluated.
        last_scores: Those of the last step, where another one was selected.
        scores: The tuned model's.
        selection: The selected checkpoint, where one is.
        proof: The proof of the reload.
        fitted: The rank that a budget led to, in words.
        start: The adapter that the run started from.
        extension: Where the run had ended before it was extended.
        forgetting: The change of the loss on general text, where it was measured.
    """

    base_parameters: int
    planned_memory: int | None
    described: dict[str, Any]
    base_scores: dict[str, Score]
    last_scores: dict[str, Score]
    scores: dict[str, Score]
    selection: BestCheckpoint | None
    proof: record.Reload
    fitted: str | None = None
    start: StartFrom | None = None
    extension: Extension | None = None
    forgetting: Mapping[str, Any] | None = None


def build_report(
    config: RunConfig,
    run_data: RunData,
    run_dir: Path,
    outcome: Outcome,
    *,
    accelerator: Accelerator,
) -> record.Report:
    """Gather what was done, at what cost, with what result."""
    selection, described = outcome.selection, outcome.described
    metrics = read_metrics(run_dir / "metrics.jsonl")
    if not metrics:  # the folder was deleted, or its disk lost them, and no step was left to train
        raise RunFailure(
            f"{run_dir / 'metrics.jsonl'} has lost its lines; delete the newest folder in "
            f"{run_dir / 'checkpoints'}, then continue with resume=auto to repeat its steps"
        )
    lengths = run_data.lengths
    supervised, tokens = int(run_data.train.supervised.sum()), int(lengths.sum())
    last = metrics[-1]
    window = max(1, min(10, len(metrics) // 4))  # logged losses whose mean is the first, the last
    batches = (
        batch
        for _, _, batch in remaining_batches(
            lengths,
            after=0,
            until=last["step"],
            batch_size=config.trainer.batch_size,
            group_by_length=config.trainer.group_by_length,
            seed=config.seed,
        )
    )
    return record.Report(
        recipe=config.recipe,
        seed=config.seed,
        command=config.command,
        protocol=config.evaluation.protocol,
        protocol_hash=record.protocol_hash(
            {eval_set.name: identity(eval_set) for eval_set in run_data.eval_sets},
            PROMPT_VERSION,
            config.evaluation.protocol,
            config.evaluation.limit,
        ),
        model=record.ReportModel(
            path=run_data.location.name,
            revision=run_data.location.revision,
            parameters=outcome.base_parameters,
            dtype=number_format(config.model),
            read_from=run_data.location.read_from,
            sha256=model_digest(run_data.location),
            embedding_rows=_embedding_rows(config, run_data),
        ),
        adapter=record.ReportAdapter(
            name=config.adapter["name"],
            peft_type=described["peft_type"],
            trainable_parameters=described["trainable_parameters"],
            mergeable=described["mergeable"],
            settings={key: value for key, value in config.adapter.items() if key != "name"},
            start=outcome.start.to_dict() if outcome.start is not None else None,
            files=file_digests(run_dir / "adapter"),
        ),
        data=record.ReportData(
            source=run_data.rows.source,
            rows=len(run_data.train),
            sha256=run_data.rows.sha256,
            truncated_rows=run_data.encoded.truncated_rows,
            contamination={
                name: {"rows": len(ids), "ids": ids} for name, ids in run_data.contaminated.items()
            },
            dropped_rows=run_data.encoded.dropped_rows,
            validation_rows=len(run_data.validation),
            prompt_mismatches=run_data.encoded.prompt_mismatches,
            supervised_tokens=supervised,
            tokens=tokens,
            supervised_share=None if run_data.objective.head else supervised / tokens,
            tokens_from=run_data.tokens_from,
            wording=run_data.wording,
            learn=config.dataset.learn,
            prompt=run_data.prompt,
            special_tokens=run_data.special_tokens.to_dict(),
        ),
        train=record.ReportTrain(
            steps=last["step"],
            epochs=last["epoch"],
            loss_first=mean([row["loss"] for row in metrics[:window]]),
            loss_last=mean([row["loss"] for row in metrics[-window:]]),
            tokens=last["tokens"],
            padding_fraction=padding_fraction(
                lengths, batches, micro_batch_size=padded_together(config.trainer)
            ),
            seconds=last["seconds"],
            tokens_per_second=last["tokens"] / last["seconds"],
            peak_memory_bytes=max(row["peak_memory_bytes"] for row in metrics),
            world_size=accelerator.num_processes,
            mixed_precision=config.trainer.mixed_precision,
            validation_loss=last.get("validation_loss"),
            selection=selection.to_dict() if selection is not None else None,
            extension=outcome.extension.to_dict() if outcome.extension is not None else None,
            planned_memory_bytes=outcome.planned_memory,
        ),
        tasks={
            eval_set.name: task_score(
                eval_set, outcome.scores[eval_set.name], outcome.base_scores, outcome.last_scores
            )
            for eval_set in run_data.eval_sets
        },
        reload=outcome.proof,
        environment=environment(device_name(accelerator.device)),
        gain=read_gain(run_dir / "predictions", list(outcome.scores))
        if outcome.base_scores
        else None,
        forgetting=outcome.forgetting,
        expected=matching([asdict(one) for one in config.expected], config.adapter),
        notes=[
            *(
                str(line)
                for line in (outcome.fitted, outcome.start, outcome.extension)
                if line is not None
            ),
            *adjustments(config, total_steps=total_steps(config, lengths)),
            *notes(run_data, selection),
        ],
    )


def notes(run_data: RunData, selection: BestCheckpoint | None) -> list[str]:
    """What a reader of the scores needs to know."""
    lines = [f"{one[0].upper()}{one[1:]}." for one in run_data.special_tokens.sentences]
    if run_data.objective.head is not None:
        start = run_data.head
        lines.append(
            f"The head was {start.said}; the base model was not scored with it."
            if start is not None and start.kept
            else "The base model has no trained head, so it has no score of its own: compare with "
            "the score of "
            + (
                "the most frequent class."
                if run_data.objective.head.labels
                else "a constant answer."
            )
        )
        if start is not None and not start.kept:
            lines.append(f"The head is {start.said}.")
    if selection is not None:
        lines.append(
            f"The adapter is the one after step {selection.best.step} (epoch "
            f"{selection.best.epoch:.4g}), the best of {len(selection.judged)} by "
            f"{selection.metric} ({selection.shown(selection.best)}; the last one "
            f"{selection.shown(selection.judged[-1])}) on {selection.rows} held-out training "
            "rows; the test rows were not used to select it."
        )
        if selection.exhausted:
            lines.append(
                f"Training stopped early, at step {selection.judged[-1].step}: "
                f"{selection.evals_since_best} evaluations in a row were no better."
            )
    lines += [
        f"{cut} rows of {name} were truncated to {eval_set.max_length} tokens, as in training."
        for eval_set in run_data.eval_sets
        if (cut := run_data.truncated_tests.get(name := eval_set.name, 0))
    ]
    if run_data.wording == "chat" and writes_the_date(run_data.tokenizer):
        lines.append(
            "The model's chat template writes today's date into every prompt, so on another day "
            "the prompt differs from the training prompt."
        )
    return lines


def task_score(
    eval_set: EvalSet,
    score: Score,
    base_scores: Mapping[str, Score],
    last_scores: Mapping[str, Score] = MappingProxyType({}),
) -> record.TaskScore:
    """A task's score with the base model's and the majority class's."""
    return record.TaskScore.of(
        score,
        base_scores.get(eval_set.name),
        last_scores.get(eval_set.name),
        majority_value=majority_value(eval_set),
        kind=eval_set.kind,
        answered=find_method(eval_set.kind).title,
    )


def majority_value(eval_set: EvalSet) -> float:
    """The score of always giving the most frequent answer; a correlation with it is 0."""
    labels = [row_label(row, eval_set.extraction) for row in eval_set.rows.rows]
    if eval_set.metric == "accuracy":
        return majority_share(labels)
    right = as_numbers(labels, eval_set.choices)
    most_frequent = as_numbers([Counter(labels).most_common(1)[0][0]], eval_set.choices)
    return find_metric(eval_set.metric)(most_frequent.repeat(len(right)), right)


def identity(eval_set: EvalSet) -> dict[str, Any]:
    """What makes two runs' scores on a task comparable."""
    return {"rows": eval_set.rows.sha256, **protocol_of(eval_set)}


OTHER = "the saved adapter does not compute what was trained; do not use it, and report this"


def conclusion(report: dict[str, Any], run_dir: Path) -> str:
    """The scores, the verdict, the cost, and where report and adapter are; 80 columns wide."""
    train, reload = report["train"], report["reload"] or {}
    differs = reload.get("max_abs_logit_difference")
    sentence = verdict(report) if report["tasks"] else ""
    if gain := report.get("gain"):
        low, high = map(numbers.points, gain["ci95"])
        sentence = f"{sentence[:-1]}: {numbers.points(gain['value'])} points ({low} to {high})."
    lines = [
        sentence,
        f"loss on {loss_change(report['forgetting'])}" if report.get("forgetting") else "",
        f"{numbers.counted(report['adapter']['trainable_parameters'], 'trainable parameter')}, "
        f"{numbers.counted(train['steps'], 'step')} in "
        f"{numbers.readable_seconds(train['seconds'])}, "
        f"{numbers.memory(train['peak_memory_bytes'])} at peak",
        # None stands for NaN; a difference of 0 is what everyone expects
        ""
        if differs == 0
        else f"the reloaded adapter's logits differ by {numbers.fixed(differs, 'g')}",
        "" if reload.get("same", True) else f"warning: {OTHER}",
    ]
    wrapped = [textwrap.fill(line, 80, subsequent_indent="  ") for line in lines if line]
    paths = [f"report   {run_dir / 'report.html'}", f"adapter  {run_dir / 'adapter'}"]
    return "\n".join([*_score_lines(report["tasks"]), *wrapped, *paths])


def _score_lines(tasks: Mapping[str, Any]) -> list[str]:
    """A table of each task's scores, beside the base model's or the most frequent class's."""
    with_base = any(task["base_value"] is not None for task in tasks.values())
    rows: list[tuple[str, ...]] = [
        ("", "base model" if with_base else "most frequent", "tuned", "rows")
    ]
    for name, task in tasks.items():
        metric = task.get("metric", "accuracy")
        against = ""
        if task["base_value"] is not None:
            against = numbers.score(task["base_value"], task["base_ci95"], metric)
        elif not with_base and task.get("kind") == "classify" and metric == "accuracy":
            against = numbers.percent(task["majority_value"])
        named = name if metric == "accuracy" else f"{name} ({metric})"
        tuned = numbers.score(task["value"], task["ci95"], metric)
        rows.append((numbers.shortened(named, 16), against, tuned, numbers.count(task["n"])))
        if task.get("last_value") is not None:
            last = numbers.score(task["last_value"], task["last_ci95"], metric)
            rows.append(("  last step", "", last, ""))
    if not any(against for _, against, *_ in rows[1:]):
        rows = [(name, "", *others) for name, _, *others in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width)
        for row in rows
    )
    return [line.rstrip() for line in lines] if tasks else []


def mean(values: Sequence[float]) -> float:
    """The mean of at least one number."""
    return sum(values) / len(values)


def number_format(model: ModelSettings) -> str:
    """The number format of the base model's weights, for people."""
    if model.quantization is None:
        return model.dtype
    return f"{model.dtype}, its linear layers in {model.quantization.replace('bit', ' bits')}"
