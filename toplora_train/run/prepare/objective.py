"""What a run trains, by the kind of its tasks: generation, classification or regression.

Only this module distinguishes the kinds. Everything else in a run (steps, checkpoints, scores,
report) uses the functions of its :class:`Objective`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from toplora_train.adapters.targets import plain_names
from toplora_train.config.errors import UserError
from toplora_train.config.kinds import head_task
from toplora_train.config.schema import ModelSettings, RunConfig, TaskSettings
from toplora_train.data.batches import collate, pack
from toplora_train.data.encode import Example, OnRows, render_example
from toplora_train.data.labelled import (
    LabelledExample,
    collate_labelled,
    encode_labelled,
    render_labelled,
)
from toplora_train.data.overflow import Encoded
from toplora_train.data.rows import Row
from toplora_train.data.sources import RowParser
from toplora_train.models.embedding import vocabulary_size
from toplora_train.models.head import Head
from toplora_train.models.load import load_model, load_tokenizer
from toplora_train.models.locate import ModelLocation, locate_model
from toplora_train.models.sharded import Shards
from toplora_train.run.prepare.encoding import Encoding, encode_for
from toplora_train.run.prepare.parsing import learned_template, training_parser
from toplora_train.train.losses import label_loss, value_loss
from toplora_train.train.step import Batch, Loss, supervised_loss


@dataclass(frozen=True)
class Objective:
    """The functions that differ between kinds.

    Attributes:
        head: The head put on the model; None for a language model.
        parse: Turns a record of a training file into a row.
        encoding: Turns rows into examples.
        collate: Turns examples into padded tensors.
        training_collate: Turns the examples of a training step into tensors.
        loss: The sum of a batch's loss.
        render: An example as (token's text, whether it is supervised), for display.
    """

    head: Head | None
    parse: RowParser
    encoding: Encoding
    collate: Callable[[Sequence[Any]], Batch]
    training_collate: Callable[[Sequence[Any]], Batch]
    loss: Loss
    render: Callable[[Any], list[tuple[str, bool]]]


def find_objective(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """The objective of the chosen tasks; a language model's unless a task needs a head.

    Raises:
        UserError: The tokenizer cannot pad, which a head on a decoder depends on.
    """
    task = head_task(config)
    return (
        language_objective(config, tokenizer)
        if task is None
        else head_objective(config, task, tokenizer)
    )


def language_objective(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Objective:
    """Train on the tokens of the responses."""
    protocol, limits = config.evaluation.protocol, length_limits(config)
    limits["learn"] = config.dataset.learn
    special = {"special_tokens": config.dataset.special_tokens}

    def encode(rows: Sequence[Row], on_rows: OnRows) -> Encoded[Any]:
        return encode_for(protocol, tokenizer, rows, **limits, on_rows=on_rows)

    padded = partial(collate, pad_token_id=tokenizer.pad_token_id)
    return Objective(
        head=None,
        parse=training_parser(config),
        encoding=Encoding(
            Example,
            {"protocol": protocol, "prompt": learned_template(config), **limits, **special},
            encode,
        ),
        collate=padded,
        training_collate=pack if config.trainer.batching == "packed" else padded,
        loss=supervised_loss,
        render=partial(render_example, tokenizer),
    )


def length_limits(config: RunConfig) -> dict[str, Any]:
    """The maximum length of an example, and how longer ones are treated."""
    return {"max_length": config.dataset.max_length, "overflow": config.dataset.overflow}


def head_objective(
    config: RunConfig, task: TaskSettings, tokenizer: PreTrainedTokenizerBase
) -> Objective:
    """Train a head on the label of a text, a pair of texts or an image.

    Raises:
        UserError: The tokenizer has no token to pad with, or packing is configured.
    """
    choices = tuple(task.choices)
    images = task.image is not None
    if tokenizer.pad_token_id is None and not images:  # encode_labelled checks no text ends with it
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None and not images:
        raise UserError(
            f"task.{task.name} needs a head, which finds the end of a text by its padding, but the "
            f"tokenizer of {config.model.path or config.model.name} has neither a pad token nor "
            "EOS; save a tokenizer with pad_token set in the model's folder"
        )

    if config.trainer.batching == "packed":
        raise UserError(
            f"trainer.batching=packed is for language models, but task.{task.name} needs a head, "
            "which scores one row at a time; use trainer.batching=padded"
        )

    limits = length_limits(config)
    special = {"special_tokens": config.dataset.special_tokens}

    def encode(rows: Sequence[Row], on_rows: OnRows) -> Encoded[Any]:
        return encode_labelled(tokenizer, rows, choices=choices, **limits, on_rows=on_rows)

    padded = partial(collate_labelled, pad_token_id=tokenizer.pad_token_id)
    return Objective(
        head=Head(choices, tokenizer.pad_token_id),
        parse=training_parser(config),
        encoding=Encoding(
            LabelledExample, {"choices": choices, **limits, **special}, encode, cached=not images
        ),
        collate=padded,
        training_collate=padded,
        loss=label_loss if choices else value_loss,
        render=partial(render_labelled, tokenizer, choices=choices),
    )


def locate_base(model: ModelSettings, *, weights: bool = True) -> ModelLocation:
    """Find the base model, or download it where possible.

    Raises:
        UserError: It cannot be found; the message says what to do.
    """
    location = locate_model(
        path=model.path,
        revision=model.revision,
        package=model.package,
        builtin=model.builtin,
        weights=weights,
    )
    return replace(location, trusted=model.trust_remote_code)


def load_base(
    config: RunConfig,
    location: ModelLocation,
    head: Head | None,
    *,
    meta: bool = False,
    head_seed: int | None = None,
    shards: Shards | None = None,
) -> PreTrainedModel:
    """The base model as configured, with the objective's head, sharded if ``shards`` are given.

    ``head_seed`` initializes the head differently than in the run, so that the reload check fails
    if the head is not read from the adapter's file.
    """
    rows = None
    if config.model.resize_embeddings:
        rows = vocabulary_size(load_tokenizer(location))
    return load_model(
        location,
        dtype=config.model.dtype,
        attention=config.model.attention,
        quantization=config.model.quantization,
        meta=meta,
        head=head,
        trained_whole=plain_names(config.adapter).get("modules_to_save") or (),
        new_head=config.model.new_head,
        embedding_rows=rows,
        seed=config.seed if head_seed is None else head_seed,
        shards=shards,
    )


def base_weights(config: RunConfig, location: ModelLocation) -> str:
    """Identifies the base model's weights, including their precision."""
    form = config.model.quantization or "whole"
    return f"{location.name}@{location.revision}/{config.model.dtype}/{form}"
