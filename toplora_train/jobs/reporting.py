"""Gather a finished run into its report, and say the essence of it on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator

from toplora_train.config.kinds import HEADS
from toplora_train.config.schema import ModelSettings, RunConfig
from toplora_train.data.batches import padding_fraction
from toplora_train.data.cache import writes_the_date
from toplora_train.data.prompts import PROMPT_VERSION
from toplora_train.evaluation.evaluate import Score, row_label
from toplora_train.evaluation.metrics import METRICS, as_numbers
from toplora_train.evaluation.statistics import majority_share
from toplora_train.jobs.learning import adjustments, padded_together
from toplora_train.jobs.material import Material, total_steps
from toplora_train.jobs.plan import planned_memory
from toplora_train.jobs.reload import ReloadProof
from toplora_train.jobs.selection import Selection
from toplora_train.jobs.testsets import TestSet, asked_how
from toplora_train.models.identity import model_digest
from toplora_train.report.environment import environment
from toplora_train.report.expected import matching
from toplora_train.report.gain import read_gain
from toplora_train.report.metrics_file import read_metrics
from toplora_train.report.record import (
    Reload,
    Report,
    ReportAdapter,
    ReportData,
    ReportModel,
    ReportTrain,
    TaskScore,
    protocol_hash,
)
from toplora_train.train.checkpoint import TrainState
from toplora_train.train.order import remaining_batches

CHAT = "; conversations in the model's own chat template, of each the last answer is learned"


def introduction(config: RunConfig, material: Material, start: TrainState) -> str:
    """What is about to happen, in a few lines."""
    total = total_steps(config, material.lengths)
    tests = ", ".join(f"{t.name} ({len(t.rows.rows)} rows)" for t in material.test_sets) or "none"
    resumed = f", going on after step {start.step}" if start.step else ""
    return (
        f"{config.adapter['name']} on {material.location.name} ({material.location.revision}): "
        f"{len(material.train)} rows, {total} steps of {config.trainer.batch_size}{resumed}\n"
        f"tokens: {material.tokens_from}{CHAT if material.wording == 'chat' else ''}\n"
        f"evaluated on {tests}\n"
        f"test questions that are trained on too: {overlap(material)}"
    )


def overlap(material: Material) -> str:
    """How many test rows of which task are asked in the training rows too."""
    told = [
        f"{test_set.name} {len(material.contaminated[test_set.name])} of {len(test_set.rows.rows)}"
        for test_set in material.test_sets
        if material.contaminated[test_set.name]
    ]
    return ", ".join(told) or "none found"


def build_report(
    config: RunConfig,
    material: Material,
    run_dir: Path,
    *,
    accelerator: Accelerator,
    fitted: str | None,
    base_parameters: int,
    shape: Any,
    described: dict[str, Any],
    base_scores: dict[str, Score],
    last_scores: dict[str, Score],
    scores: dict[str, Score],
    selection: Selection | None,
    proof: ReloadProof,
) -> Report:
    """Gather what was done, at what cost, with what result.

    ``fitted`` says what a budget came to, ``shape`` is the model's own config.
    """
    metrics = read_metrics(run_dir / "metrics.jsonl")
    lengths = material.lengths
    supervised = sum(example.supervised for example in material.train)
    last = metrics[-1]
    window = max(1, min(10, len(metrics) // 4))  # logged losses whose mean is the first, the last
    batches = [
        batch
        for _, _, batch in remaining_batches(
            lengths,
            after=0,
            until=last["step"],
            batch_size=config.trainer.batch_size,
            group_by_length=config.trainer.group_by_length,
            seed=config.seed,
        )
    ]
    return Report(
        recipe=config.recipe,
        seed=config.seed,
        command=config.command,
        protocol=config.evaluation.protocol,
        protocol_hash=protocol_hash(
            {test_set.name: identity(test_set) for test_set in material.test_sets},
            PROMPT_VERSION,
            config.evaluation.protocol,
            config.evaluation.limit,
        ),
        model=ReportModel(
            path=material.location.name,
            revision=material.location.revision,
            parameters=base_parameters,
            dtype=number_format(config.model),
            read_from=material.location.read_from,
            sha256=model_digest(material.location),
        ),
        adapter=ReportAdapter(
            name=config.adapter["name"],
            peft_type=described["peft_type"],
            trainable_parameters=described["trainable_parameters"],
            mergeable=described["mergeable"],
            settings={key: value for key, value in config.adapter.items() if key != "name"},
        ),
        data=ReportData(
            source=material.rows.source,
            rows=len(material.train),
            sha256=material.rows.sha256,
            truncated_rows=material.encoded.truncated_rows,
            contamination={
                name: {"rows": len(ids), "ids": ids} for name, ids in material.contaminated.items()
            },
            dropped_rows=material.encoded.dropped_rows,
            validation_rows=len(material.validation),
            prompt_mismatches=material.encoded.prompt_mismatches,
            supervised_tokens=supervised,
            tokens=sum(lengths),
            supervised_share=None if material.objective.head else supervised / sum(lengths),
            tokens_from=material.tokens_from,
            wording=material.wording,
        ),
        train=ReportTrain(
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
            planned_memory_bytes=planned_memory(
                config,
                material,
                shape,
                parameters=base_parameters,
                trainable=described["trainable_parameters"],
            ).total,
        ),
        tasks={
            test_set.name: task_score(test_set, scores[test_set.name], base_scores, last_scores)
            for test_set in material.test_sets
        },
        reload=Reload(proof.max_abs_logit_difference, list(proof.missing), list(proof.unexpected)),
        environment=environment(str(accelerator.device)),
        gain=read_gain(run_dir / "predictions", list(scores)) if base_scores else None,
        expected=matching([asdict(one) for one in config.expected], config.adapter),
        notes=[
            *([fitted] if fitted else []),
            *adjustments(config, total_steps=total_steps(config, lengths)),
            *notes(material, selection),
        ],
    )


def notes(material: Material, selection: Selection | None) -> list[str]:
    """What a reader of the scores has to know besides."""
    said = []
    if material.objective.head is not None:
        said.append(
            "The base model has no trained head and would guess, so it has no score of its own: "
            "hold the score against that of the most frequent answer."
        )
    if selection is not None:
        said.append(
            f"The adapter is the one after step {selection.best.step} (epoch "
            f"{selection.best.epoch:.4g}), of {len(selection.judged)} judged the best by "
            f"{selection.metric} ({selection.shown(selection.best)}; the last one "
            f"{selection.shown(selection.judged[-1])}) on {selection.rows} rows held out of the "
            "train set; the test rows took no part in the choice."
        )
        if selection.exhausted:
            said.append(
                f"Training stopped early, at step {selection.judged[-1].step}: {selection.in_vain} "
                "judgements in a row were no better."
            )
    said += [
        f"{count} rows of {name} were cut to the {test_set.max_length} tokens that training saw."
        for test_set in material.test_sets
        if (count := material.truncated_tests.get(name := test_set.name, 0))
    ]
    if material.wording == "chat" and writes_the_date(material.tokenizer):
        said.append(
            "The model's chat template writes the day's date into every prompt, so on another day "
            "it is asked in other words than it learned."
        )
    return said


def task_score(
    test_set: TestSet,
    score: Score,
    base_scores: dict[str, Score],
    last_scores: Mapping[str, Score] = MappingProxyType({}),
) -> TaskScore:
    """A task's score beside the base model's and the majority class'."""
    base = base_scores.get(test_set.name)
    last = last_scores.get(test_set.name)
    return TaskScore(
        kind=test_set.kind,
        metric=score.metric,
        value=score.value,
        n=score.n,
        ci95=score.ci95,
        base_value=base.value if base else None,
        base_ci95=base.ci95 if base else None,
        base_seconds=base.seconds if base else None,
        majority_value=majority_value(test_set),
        seconds=score.seconds,
        more={name: asdict(measured) for name, measured in score.more.items()},
        last_value=last.value if last else None,
        last_ci95=last.ci95 if last else None,
    )


def majority_value(test_set: TestSet) -> float:
    """The score of always giving the most frequent answer; a correlation with it is 0."""
    labels = [row_label(row, test_set.extraction) for row in test_set.rows.rows]
    if test_set.metric == "accuracy":
        return majority_share(labels)
    right = as_numbers(labels, test_set.choices)
    most_frequent = as_numbers([Counter(labels).most_common(1)[0][0]], test_set.choices)
    return METRICS[test_set.metric](most_frequent.repeat(len(right)), right)


def identity(test_set: TestSet) -> dict[str, Any]:
    """What makes two runs' scores on a task comparable."""
    return {"rows": test_set.rows.sha256, **asked_how(test_set)}


def conclusion(report: dict[str, Any], run_dir: Path) -> str:
    """Base and tuned scores, the time, and where the report is."""
    lines = []
    for name, task in report["tasks"].items():
        base = (
            f"base {interval(task['base_value'], task['base_ci95'])} -> "
            if task["base_value"] is not None
            else ""
        )
        if task.get("kind") in HEADS:
            base = f"most frequent answer {task['majority_value']:.1%} -> "
        metric = "" if task.get("metric", "accuracy") == "accuracy" else f" ({task['metric']})"
        last = (
            f"; the last step {interval(task['last_value'], task['last_ci95'])}"
            if task.get("last_value") is not None
            else ""
        )
        lines.append(
            f"{name}{metric}: {base}tuned {interval(task['value'], task['ci95'])}, "
            f"n = {task['n']}{last}"
        )
    lines.append(
        f"trained {report['adapter']['trainable_parameters']:,} parameters for "
        f"{report['train']['steps']} steps in {report['train']['seconds']:.0f} s; the reloaded "
        f"adapter's logits differ by {report['reload']['max_abs_logit_difference']:g}"
    )
    lines.append(f"report: {run_dir / 'report.html'} (also report.md, report.json)")
    lines.append(f"adapter: {run_dir / 'adapter'}")
    return "\n".join(lines)


def interval(value: float, ci95: Sequence[float]) -> str:
    """A share with its 95 % interval."""
    return f"{value:.1%} ({ci95[0]:.1%} to {ci95[1]:.1%})"


def mean(values: Sequence[float]) -> float:
    """The mean of at least one number."""
    return sum(values) / len(values)


def number_format(model: ModelSettings) -> str:
    """The number format of the base model's weights, for people."""
    if model.quantization is None:
        return model.dtype
    return f"{model.dtype}, its linear layers in {model.quantization.replace('bit', ' bits')}"
