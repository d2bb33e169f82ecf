"""``toplora-eval``: evaluate a saved adapter again, or on other tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from toplora_train.adapters.attach import kernel_of
from toplora_train.adapters.saving import WEIGHTS_FILE, load_adapter, sha256_of
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_of, head_task, validate_tasks
from toplora_train.config.resolved import read_config
from toplora_train.config.schema import RunConfig
from toplora_train.data.contamination import contaminated_ids
from toplora_train.data.prompts import PROMPT_VERSION
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import Method, find_method
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.sharded import to_device
from toplora_train.report.record import completed_report, protocol_hash
from toplora_train.run.assemble.evaluation_folder import open_folder, write_evaluation
from toplora_train.run.assemble.run_report import identity, task_score
from toplora_train.run.assemble.scores import Scorer
from toplora_train.run.platform.console import open_console
from toplora_train.run.platform.device import (
    AUTOCAST,
    leave_process_group,
    open_accelerator,
    open_shards,
)
from toplora_train.run.prepare.adapted_model import validate_own_adapter
from toplora_train.run.prepare.eval_sets import match_training_form, prompt_mismatch, read_eval_sets
from toplora_train.run.prepare.objective import (
    Objective,
    base_weights,
    find_objective,
    load_base,
    locate_base,
)
from toplora_train.run.prepare.run_data import methods_by_form, training_rows
from toplora_train.run.prepare.special_tokens import open_tokenizer, special_tokens
from toplora_train.train.signals import interrupt_at_once


@dataclass(frozen=True)
class Opened:
    """A finished run's base model, and what its adapter is scored with.

    Attributes:
        model: The base model, without the adapter.
        scorer: Scores models on the evaluation sets.
        objective: What the run trains.
        weights: Identifies the base model's weights.
        sentences: What the rows' special tokens are and how they are encoded.
    """

    model: PreTrainedModel
    scorer: Scorer
    objective: Objective
    weights: str
    sentences: Sequence[str]


def open_run(
    config: RunConfig,
    run_dir: Path,
    eval_sets: Sequence[EvalSet],
    predictions: Path,
    accelerator: Accelerator,
) -> Opened:
    """Load a finished run's base model and validate that the run's adapter fits it.

    Args:
        config: The run's configuration with the evaluation's settings.
        run_dir: The run.
        eval_sets: What is scored, in the form of training.
        predictions: The folder of the predictions.
        accelerator: Where to compute.

    Raises:
        UserError: The run has no adapter, or it does not fit.
    """
    console = open_console(quiet=not accelerator.is_main_process)
    location = locate_base(config.model)
    validate_own_adapter(run_dir, location)
    tokenizer = open_tokenizer(config, location)
    special = special_tokens(tokenizer, (), eval_sets, wanted=config.dataset.special_tokens)
    for sentence in special.sentences:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    objective = find_objective(config, tokenizer)
    # Errors in the adapter and the rows surface before the base model is evaluated.
    empty = load_base(config, location, objective.head, meta=True)
    load_adapter(empty, run_dir / "adapter")
    eval_sets = special.marked(eval_sets)
    for eval_set in eval_sets if objective.head is None else ():
        find_method(eval_set.kind).validate_rows(empty, tokenizer, eval_set)
    shards = open_shards(config.launch, accelerator)
    model = load_base(config, location, objective.head, shards=shards)
    to_device(model, accelerator.device)
    scorer = Scorer(
        tokenizer=tokenizer,
        eval_sets=eval_sets,
        folder=predictions,
        batch_size=config.evaluation.batch_size,
        autocast_dtype=AUTOCAST[config.trainer.mixed_precision],
        console=console,
        ranks=Ranks(accelerator.process_index, accelerator.num_processes),
    )
    weights = base_weights(config, location)
    return Opened(model, scorer, objective, weights, special.sentences)


def evaluate(config: RunConfig, run_dir: Path, *, name: str, command: str) -> tuple[Path, Any]:
    """Evaluate a finished run's adapter, and its base model for comparison; predictions are kept.

    An interrupted evaluation resumes from its stored predictions when the same command is run
    again. Several processes (``WORLD_SIZE``) share the rows; rank 0 writes the report.

    Args:
        config: The run's configuration with the evaluation's settings.
        run_dir: The run.
        name: The evaluation's folder below ``run_dir/evaluations``.
        command: The command line, for the report.

    Returns:
        The folder and the report in it; the report is None on all ranks but 0.

    Raises:
        UserError: The run has no adapter, or the tasks cannot be evaluated.
    """
    interrupt_at_once()
    wording = completed_report(run_dir)["data"].get("wording", "alpaca")
    folder = open_folder(run_dir, name)
    accelerator = open_accelerator(config.launch.device, config.trainer.mixed_precision)
    first = accelerator.is_main_process
    console = open_console(quiet=not first)
    in_files = read_eval_sets(
        config.task, config.dataset, config.evaluation, data_root=config.mirror
    )
    eval_sets = [match_training_form(eval_set, wording) for eval_set in in_files]
    if not eval_sets:
        raise UserError("nothing to evaluate: the run has no task; name some with task=[...]")
    trained = read_config(run_dir / "config.yaml")
    validate_same_head(config, trained)
    mismatch = form_mismatch(config, trained)
    if wording in ("alpaca", "template"):
        learned = completed_report(run_dir)["data"].get("prompt")
        prompts = [prompt_mismatch(eval_set, learned) for eval_set in eval_sets]
        mismatch = (
            " ".join(filter(None, [mismatch, *(f"{one}." for one in prompts if one)])) or None
        )
    if mismatch:
        console.print(mismatch, highlight=False, markup=False, soft_wrap=True)
    opened = open_run(config, run_dir, eval_sets, folder / "predictions", accelerator)
    scorer, objective, eval_sets = opened.scorer, opened.objective, list(opened.scorer.eval_sets)
    base_scores = (
        scorer.score(opened.model, "base", weights=opened.weights, suffix=".base")
        if config.evaluation.base and objective.head is None
        else {}
    )
    adapter = run_dir / "adapter"
    adapted = load_adapter(opened.model, adapter, kernel=kernel_of(config.adapter))
    to_device(adapted, accelerator.device)
    weights = sha256_of(adapter / WEIGHTS_FILE)
    scores = scorer.score(adapted, "tuned", weights=weights)
    leave_process_group(accelerator)
    if not first:
        return folder, None
    return folder, write_evaluation(
        folder,
        run_dir,
        {t.name: task_score(t, scores[t.name], base_scores) for t in eval_sets},
        command=command,
        protocol=config.evaluation.protocol,
        protocol_hash=protocol_hash(
            {eval_set.name: identity(eval_set) for eval_set in eval_sets},
            PROMPT_VERSION,
            config.evaluation.protocol,
            config.evaluation.limit,
        ),
        contamination=find_contamination(config, objective, in_files),
        note="These scores were computed after the run, by toplora-eval, from the saved adapter."
        + (f" {mismatch}" if mismatch else "")
        + "".join(f" In them, {sentence}." for sentence in opened.sentences),
    )


def form_mismatch(wanted: RunConfig, trained: RunConfig) -> str | None:
    """A sentence if multiple choice is evaluated in another form than trained; else None."""
    learned = next(iter(methods_by_form(trained)), Method.form)
    for form, (task, _) in methods_by_form(wanted).items():
        if form != learned:
            return (
                f"The run was trained to answer multiple choice {learned}, but is evaluated in "
                f"another form (task.{task} {form})."
            )
    return None


def validate_same_head(wanted: RunConfig, trained: RunConfig) -> None:
    """Check that the tasks need the head that the run trained, or none if it trained none.

    Raises:
        UserError: The tasks need another head than the run's.
    """
    validate_tasks(wanted)
    task, learned = head_task(wanted), head_task(trained)
    if task is None and learned is None:
        return
    if task is None or learned is None or head_of(task) != head_of(learned):
        name = task.name if task is not None else next(iter(wanted.task))
        known = learned.name if learned is not None else "text generation"
        raise UserError(
            f"task.{name} needs another model: the run's was trained for {known}; train one for "
            f"task.{name}"
        )


def find_contamination(
    config: RunConfig, objective: Objective, eval_sets: list[EvalSet]
) -> dict[str, Any] | None:
    """The test rows that were trained on, by task; None if the training rows are unavailable."""
    try:
        rows = training_rows(config, objective, data_root=config.mirror)
    except UserError:
        return None
    found = contaminated_ids(rows.rows, {t.name: t.rows.rows for t in eval_sets})
    return {name: {"rows": len(ids), "ids": list(ids)} for name, ids in found.items()}
