"""What a run needs before any weights are loaded: rows, tokens, test sets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.config.folders import cache_folder
from toplora_train.config.kinds import chooses, method_of, own_split, training_sources
from toplora_train.config.schema import RunConfig
from toplora_train.data.batches import Lengths
from toplora_train.data.contamination import contaminated_ids, validate_overlap, validate_sources
from toplora_train.data.formats.completion import VERBATIM
from toplora_train.data.on_disk import Selected
from toplora_train.data.overflow import Encoded, Examples
from toplora_train.data.parts import hold_out
from toplora_train.data.rows import COMPLETION, TEXT, Row, RowSet, with_responses
from toplora_train.data.sources import read_rows, read_union
from toplora_train.evaluation.eval_set import EvalSet
from toplora_train.evaluation.methods.base import find_method
from toplora_train.evaluation.ranks import Ranks
from toplora_train.models.head import HeadStart
from toplora_train.models.load import start_of_head
from toplora_train.models.locate import ModelLocation
from toplora_train.run.prepare.encoding import SINGLE, Encoder, has_conversations
from toplora_train.run.prepare.eval_sets import (
    match_training_form,
    read_eval_sets,
    validate_same_prompt,
)
from toplora_train.run.prepare.objective import (
    Objective,
    find_objective,
    locate_base,
)
from toplora_train.run.prepare.parsing import learned_template
from toplora_train.run.prepare.special_tokens import SpecialTokens, open_tokenizer, special_tokens
from toplora_train.train.sampler import steps_for_tokens, steps_in_epoch

FORM_PROMPTS = {COMPLETION: VERBATIM, TEXT: "{text}"}


@dataclass(frozen=True)
class RunData:
    """Everything known before any weights are loaded."""

    location: ModelLocation
    tokenizer: PreTrainedTokenizerBase
    rows: RowSet
    objective: Objective
    wording: str  # "chat", "alpaca", "template", "text", or with a head "none" or "images"
    prompt: str | None  # the template of the rows' prompts, if they have their own
    encoded: Encoded[Any]
    train: Examples[Any]  # the objective's kind of example
    validation: Examples[Any]
    validation_rows: Sequence[Row]
    eval_sets: list[EvalSet]
    contaminated: dict[str, list[str]]  # ids of test rows whose question is trained on, by task
    tokens_from: str  # whether the tokens were cached, in words
    truncated_tests: dict[str, int] = field(default_factory=dict)  # truncated test rows, by task
    head: HeadStart | None = None  # the head's initialization
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)  # in the rows' text

    @property
    def lengths(self) -> NDArray[Any]:
        """The number of tokens of each training row."""
        return self.train.lengths


def prepare(
    config: RunConfig,
    *,
    weights: bool = True,
    console: Console | None = None,
    local: Ranks = SINGLE,
    barrier: Callable[[], None] | None = None,
) -> RunData:
    """Read and encode all rows, and check that evaluation prompts match the training prompts.

    Args:
        config: The run.
        weights: Whether the model's weights must be available.
        console: Shows progress; silent by default.
        local: The rank among the processes of this computer, which share the encoding.
        barrier: Waits for all processes; None for a single one.

    Raises:
        UserError: The input is invalid.
    """
    location = locate_base(config.model, weights=weights)
    tokenizer = open_tokenizer(config, location)
    objective = find_objective(config, tokenizer)
    dataset = config.dataset
    data_root = Path(config.data_root) if config.data_root else None
    rows = training_rows(config, objective, data_root=data_root)
    eval_sets = (
        read_eval_sets(config.task, dataset, config.evaluation, data_root=data_root)
        if config.evaluation.enabled
        else []
    )
    # On the rows as in the files, because a cloze may leave another question of a row.
    contaminated = contaminated_ids(rows.rows, {one.name: one.rows.rows for one in eval_sets})
    sizes = {one.name: len(one.rows.rows) for one in eval_sets}
    validate_overlap(contaminated, sizes, most=dataset.max_overlap)
    wording = wording_of(rows, objective)
    rows = find_method(training_method(config)).prepare(rows)
    eval_sets = [match_training_form(one, wording) for one in eval_sets]
    prompt = FORM_PROMPTS.get(rows.rows[0].form, learned_template(config))
    prompt = prompt if wording in ("template", "text") else None
    if wording in ("alpaca", "template"):
        validate_same_prompt(eval_sets, prompt)
    special = special_tokens(tokenizer, rows.rows, eval_sets, wanted=dataset.special_tokens)
    eval_sets = special.marked(eval_sets)
    truncated_tests = {}
    encoder = Encoder(
        objective.encoding,
        tokenizer,
        folder=cache_folder() / "tokens" if dataset.cache else None,
        console=console or Console(quiet=True),
        local=local,
        barrier=barrier,
    )
    encoded, tokens_from = encoder.encode(rows, "training rows")
    if objective.head is not None:  # find test rows that do not fit before training
        for eval_set in eval_sets:
            encoded_tests, _ = encoder.encode(eval_set.rows, eval_set.name)
            truncated_tests[eval_set.name] = encoded_tests.truncated_rows
    examples, kept = Examples.of(encoded.examples), np.asarray(encoded.kept)
    held_out = dataset.validation_rows or round(dataset.validation_share * len(examples))
    if dataset.validation_share and not held_out:
        raise UserError(
            f"dataset.validation_share={dataset.validation_share:g} of {len(examples)} rows is "
            "less than one row; give a larger share, or dataset.validation_rows=N"
        )
    groups = _sources_of(rows.rows)[kept] if held_out else kept
    train, validation = hold_out(groups, held_out, seed=config.seed)
    return RunData(
        location=location,
        tokenizer=tokenizer,
        rows=rows,
        objective=objective,
        wording=wording,
        prompt=prompt,
        encoded=encoded,
        train=examples.select(train) if held_out else examples,
        validation=examples.select(validation),
        validation_rows=Selected(rows.rows, kept[validation]),
        eval_sets=eval_sets,
        contaminated={name: list(ids) for name, ids in contaminated.items()},
        truncated_tests=truncated_tests,
        head=None
        if objective.head is None
        else start_of_head(location, objective.head, new=config.model.new_head),
        special_tokens=special,
        tokens_from=tokens_from,
    )


def training_method(config: RunConfig) -> str:
    """The name of the method in whose form multiple choice is trained: that of the tasks.

    Raises:
        UserError: Two tasks have different forms.
    """
    found = methods_by_form(config)
    if len(found) > 1:
        (form, (task, _)), (other_form, (other, _)) = [*found.items()][:2]
        raise UserError(
            f"task.{task} is answered {form} and task.{other} {other_form}, but a run is trained "
            "in one form; set evaluation.multiple_choice for both, or evaluate one of them after "
            "the run with toplora-eval"
        )
    return next((method for _, method in found.values()), "generate")


def methods_by_form(config: RunConfig) -> dict[str, tuple[str, str]]:
    """For each form of the tasks' multiple choice, the first such task and its method."""
    found: dict[str, tuple[str, str]] = {}
    for name, task in config.task.items():
        method = method_of(task, config.evaluation)
        if method != "generate" or chooses(task):
            found.setdefault(find_method(method).form, (name, method))
    return found


def _sources_of(rows: Sequence[Row]) -> NDArray[Any]:
    """A number for each row, a hash of its place, which copies of the row share."""
    digests = (hashlib.blake2b(row.where.encode(), digest_size=8).digest() for row in rows)
    return np.frombuffer(b"".join(digests), dtype=np.int64)


def wording_of(rows: RowSet, objective: Objective) -> str:
    """How the rows become prompts: ``chat``, ``alpaca``, ``template``, ``text``, ``none``.

    Of ``images`` too there are none.

    Raises:
        UserError: Only some rows are conversations.
    """
    if objective.head is not None:
        return "images" if objective.head.images else "none"
    if has_conversations(rows.rows):
        return "chat"
    if rows.rows[0].form == TEXT:
        return "text"
    return "template" if rows.rows[0].prompt else "alpaca"


def training_rows(config: RunConfig, objective: Objective, *, data_root: Path | None) -> RowSet:
    """The training rows: of the configured sources, or of the task's own train split."""
    dataset = config.dataset
    split = own_split(config)
    if split is not None:
        task = next(iter(config.task.values()))
        rows = read_rows(
            task.source,
            data_root=data_root,
            subset=task.subset,
            split=split,
            revision=task.revision,
            limit=dataset.limit,
            parse=objective.parse,
        )
        return rows if objective.head is not None else with_responses(rows, task.response)
    sources = training_sources(dataset)
    validate_sources([source for source, _ in sources], allowed=dataset.allow_leaks or ())
    return read_union(
        sources,
        data_root=data_root,
        subset=dataset.subset,
        split=dataset.split,
        revision=dataset.revision,
        limit=dataset.limit,
        parse=objective.parse,
    )


def total_steps(config: RunConfig, lengths: Lengths) -> int:
    """The optimizer steps of the whole run on rows with ``lengths`` tokens."""
    trainer = config.trainer
    if trainer.max_tokens is not None:
        return steps_for_tokens(
            trainer.max_tokens,
            lengths,
            batch_size=trainer.batch_size,
            group_by_length=trainer.group_by_length,
            seed=config.seed,
        )
    return trainer.max_steps or trainer.epochs * steps_in_epoch(len(lengths), trainer.batch_size)
