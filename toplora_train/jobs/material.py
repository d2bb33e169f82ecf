"""All that a run needs before any weight is loaded: rows, tokens, test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from toplora_train.config.folders import cache_folder
from toplora_train.config.kinds import own_split
from toplora_train.config.schema import RunConfig
from toplora_train.data.cloze import as_cloze
from toplora_train.data.contamination import contaminated_ids
from toplora_train.data.leaks import refuse_known_leaks, refuse_overlap
from toplora_train.data.overflow import Encoded
from toplora_train.data.rows import Row, RowSet
from toplora_train.data.sources import read_rows, read_union
from toplora_train.data.split import hold_out
from toplora_train.jobs.encoding import Encoder, has_conversations
from toplora_train.jobs.objective import Objective, find_objective
from toplora_train.jobs.testsets import TestSet, asked_as_learned, read_test_sets
from toplora_train.models.load import load_tokenizer
from toplora_train.models.locate import ModelLocation, locate_model
from toplora_train.train.order import steps_in_epoch, steps_through


@dataclass(frozen=True)
class Material:
    """All that is known before any weight is loaded."""

    location: ModelLocation
    tokenizer: PreTrainedTokenizerBase
    rows: RowSet
    objective: Objective
    wording: str  # how rows become prompts: "chat", "alpaca", or "none" with a head
    encoded: Encoded[Any]
    train: list[Any]  # the objective's kind of example
    validation: list[Any]
    validation_rows: list[Row]
    test_sets: list[TestSet]
    contaminated: dict[str, list[str]]  # ids of test rows whose question is trained on, by task
    tokens_from: str  # whether the tokens were cached, in words
    truncated_tests: dict[str, int] = field(default_factory=dict)  # rows that a head sees in part

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row that is trained on."""
        return [len(example.input_ids) for example in self.train]


def prepare(
    config: RunConfig,
    *,
    weights: bool = True,
    console: Console | None = None,
    in_turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Material:
    """Read and encode all rows, and prove that they are asked as they are learned.

    Args:
        config: The run.
        weights: Whether the model's weights have to be at hand.
        console: Where the progress of long work is shown; nowhere by default.
        in_turn: Lets one process of a machine encode before the others, who find its tokens cached.

    Raises:
        UserError: Something in the input is wrong.
    """
    location = locate_model(
        path=config.model.path,
        revision=config.model.revision,
        package=config.model.package,
        builtin=config.model.builtin,
        weights=weights,
    )
    tokenizer = load_tokenizer(location)
    objective = find_objective(config, tokenizer)
    dataset = config.dataset
    data_root = Path(config.data_root) if config.data_root else None
    rows = training_rows(config, objective, data_root=data_root)
    test_sets = read_test_sets(config.task, dataset, config.evaluation, data_root=data_root)
    # As the files have them: as a cloze another question may be left of a row.
    contaminated = contaminated_ids(rows.rows, {one.name: one.rows.rows for one in test_sets})
    sizes = {one.name: len(one.rows.rows) for one in test_sets}
    refuse_overlap(contaminated, sizes, most=dataset.max_overlap)
    wording = wording_of(rows, objective)
    if config.evaluation.multiple_choice == "cloze":
        rows = as_cloze(rows)  # learned as it is asked
    test_sets = [asked_as_learned(one, wording) for one in test_sets]
    truncated_tests = {}
    with in_turn():
        encoder = Encoder(
            objective.encoding,
            tokenizer,
            folder=cache_folder() / "tokens" if dataset.cache else None,
            console=console or Console(quiet=True),
        )
        encoded, tokens_from = encoder.encode(rows, "training rows")
        if objective.head is not None:  # a test row that does not fit shows before the training
            for test_set in test_sets:
                of_test, _ = encoder.encode(test_set.rows, test_set.name)
                truncated_tests[test_set.name] = of_test.truncated_rows
    count = len(encoded.examples)
    held_out = dataset.validation_rows or round(dataset.validation_share * count)
    learned, held = hold_out(count, held_out, seed=config.seed)
    return Material(
        location=location,
        tokenizer=tokenizer,
        rows=rows,
        objective=objective,
        wording=wording,
        encoded=encoded,
        train=[encoded.examples[index] for index in learned],
        validation=[encoded.examples[index] for index in held],
        validation_rows=[rows.rows[encoded.kept[index]] for index in held],
        test_sets=test_sets,
        contaminated={name: list(ids) for name, ids in contaminated.items()},
        truncated_tests=truncated_tests,
        tokens_from=tokens_from,
    )


def wording_of(rows: RowSet, objective: Objective) -> str:
    """How the rows become prompts.

    Raises:
        UserError: some are conversations, some are not.
    """
    if objective.head is not None:
        return "none"
    return "chat" if has_conversations(rows.rows) else "alpaca"


def training_rows(config: RunConfig, objective: Objective, *, data_root: Path | None) -> RowSet:
    """The rows to train on: the sources that are named, or the chosen tasks' own train split."""
    dataset = config.dataset
    split = own_split(config)
    if split is not None:
        task = next(iter(config.task.values()))
        return read_rows(
            task.source,
            data_root=data_root,
            subset=task.subset,
            split=split,
            revision=task.revision,
            limit=dataset.limit,
            parse=objective.parse,
        )
    sources = [dataset.train] if isinstance(dataset.train, str) else dataset.train or []
    refuse_known_leaks(sources, allowed=dataset.allow_leaks or ())
    return read_union(
        sources,
        data_root=data_root,
        subset=dataset.subset,
        split=dataset.split,
        revision=dataset.revision,
        limit=dataset.limit,
        parse=objective.parse,
    )


def total_steps(config: RunConfig, lengths: Sequence[int]) -> int:
    """The optimizer steps of the whole run on rows of ``lengths`` tokens."""
    trainer = config.trainer
    if trainer.max_tokens is not None:
        return steps_through(
            trainer.max_tokens,
            lengths,
            batch_size=trainer.batch_size,
            group_by_length=trainer.group_by_length,
            seed=config.seed,
        )
    return trainer.max_steps or trainer.epochs * steps_in_epoch(len(lengths), trainer.batch_size)
