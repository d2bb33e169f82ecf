"""All that a run needs before any weight is loaded: rows, tokens, test sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from toplora_train.config.schema import RunConfig
from toplora_train.data.contamination import contaminated_ids
from toplora_train.data.encode import Encoded, Example
from toplora_train.data.rows import RowSet
from toplora_train.data.sources import read_union
from toplora_train.data.split import hold_out
from toplora_train.jobs.encoding import encode_for
from toplora_train.jobs.testsets import TestSet, read_test_sets
from toplora_train.models.load import load_tokenizer
from toplora_train.models.locate import ModelLocation, locate_model
from toplora_train.train.order import steps_in_epoch


@dataclass(frozen=True)
class Material:
    """All that is known before any weight is loaded."""

    location: ModelLocation
    tokenizer: PreTrainedTokenizerBase
    rows: RowSet
    encoded: Encoded
    train: list[Example]
    validation: list[Example]
    test_sets: list[TestSet]
    contaminated: dict[str, list[str]]  # ids of test rows whose question is trained on, by task
    prompt_mismatches: int = 0  # rows that are asked in other tokens than they are learned in


def prepare(config: RunConfig, *, weights: bool = True) -> Material:
    """Read and encode all rows, and prove that they are asked as they are learned."""
    location = locate_model(
        path=config.model.path,
        revision=config.model.revision,
        package=config.model.package,
        builtin=config.model.builtin,
        weights=weights,
    )
    tokenizer = load_tokenizer(location)
    dataset = config.dataset
    data_root = Path(config.data_root) if config.data_root else None
    sources = [dataset.train] if isinstance(dataset.train, str) else dataset.train or []
    rows = read_union(
        sources,
        data_root=data_root,
        subset=dataset.subset,
        split=dataset.split,
        revision=dataset.revision,
        limit=dataset.limit,
    )
    test_sets = read_test_sets(config.task, dataset, config.evaluation, data_root=data_root)
    encoded, mismatches = encode_for(
        config.evaluation.protocol,
        tokenizer,
        rows.rows,
        max_length=dataset.max_length,
        overflow=dataset.overflow,
    )
    learned, held = hold_out(len(encoded.examples), dataset.validation_rows, seed=config.seed)
    return Material(
        location=location,
        tokenizer=tokenizer,
        rows=rows,
        encoded=encoded,
        train=[encoded.examples[index] for index in learned],
        validation=[encoded.examples[index] for index in held],
        test_sets=test_sets,
        contaminated={
            name: list(ids)
            for name, ids in contaminated_ids(
                rows.rows, {test_set.name: test_set.rows.rows for test_set in test_sets}
            ).items()
        },
        prompt_mismatches=mismatches,
    )


def total_steps(config: RunConfig, rows: int) -> int:
    """The optimizer steps of the whole run."""
    epochs = config.trainer.epochs
    return config.trainer.max_steps or epochs * steps_in_epoch(rows, config.trainer.batch_size)
