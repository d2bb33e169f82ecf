"""Load a located base model and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from toplora_train.config.aside import temporary_folder
from toplora_train.config.errors import UserError
from toplora_train.models.embedding import resize_embeddings
from toplora_train.models.head import (
    Head,
    HeadStart,
    draw_head,
    head_modules,
    head_start,
    reorder_classes,
    validate_loaded_weights,
)
from toplora_train.models.locate import ModelLocation
from toplora_train.models.quantized import keep_trainable, quantization_config
from toplora_train.models.tiny import tiny_config, tiny_model, tiny_tokenizer

# Tokens that vocabularies reserve and no text contains, in order of preference.
SPARE_TOKENS = (
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|endoftext|>",
    "<pad>",
    "<unk>",
)


def load_tokenizer(location: ModelLocation) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token that is not its EOS where the vocabulary has a spare.

    A pad equal to EOS makes other tools mask the EOS that was learned, so that the model never
    stops; here labels are masked by position, but the saved tokenizer is used by others as well.

    Raises:
        UserError: the folder holds no tokenizer, or one without an EOS token.
    """
    if location.folder is None:
        return tiny_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(location.folder)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{location.name}: no tokenizer could be read from {location.folder}: {error}"
        ) from error
    if tokenizer.eos_token is None and tokenizer.sep_token is None:
        raise UserError(
            f"{location.name}: the tokenizer has no EOS token, so no answer could ever end"
        )
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        vocabulary = tokenizer.get_vocab()
        spares = [t for t in SPARE_TOKENS if t in vocabulary and t != tokenizer.eos_token]
        tokenizer.pad_token = spares[0] if spares else tokenizer.eos_token
    return tokenizer


def load_model(
    location: ModelLocation,
    *,
    dtype: str,
    attention: str = "sdpa",
    quantization: str | None = None,
    meta: bool = False,
    head: Head | None = None,
    trained_whole: Sequence[str] = (),
    new_head: bool = False,
    embedding_rows: int | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """The base model in evaluation mode on the CPU, frozen.

    Args:
        location: where it is.
        dtype: the number format of its weights, a name of torch's.
        attention: the attention implementation, in transformers' words.
        quantization: ``4bit`` or ``8bit``, or None for weights as they are.
        meta: build it without weights, for counting (nothing is read but ``config.json``); never
            quantised.
        head: the head to put on it; without one it is a causal language model.
        trained_whole: modules that will be trained and saved whole, and so may lack weights.
        new_head: draw a new head though the checkpoint has one that fits.
        embedding_rows: rows that the embedding is to have, more than it has; None leaves it.
        seed: of the head's random start; the global random state is left as it was.

    Raises:
        UserError: the folder cannot be loaded as such a model, lacks weights besides the head's, or
            has a head for other classes; the embedding has the rows already.
    """
    start = start_of_head(location, head, new=new_head) if head is not None else None
    kind = AutoModelForCausalLM if head is None else AutoModelForSequenceClassification
    torch_dtype: torch.dtype = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        empty = partial(_without_weights, kind, location, head, torch_dtype, attention)
        if meta:
            model = empty()
        elif location.folder is None and quantization is None:
            model = _builtin(kind, head).to(torch_dtype)
        else:
            how: dict[str, Any] = {"dtype": torch_dtype, "attn_implementation": attention}
            if quantization is not None:
                kept = head_modules(empty()) if head is not None else None
                how["quantization_config"] = quantization_config(quantization, torch_dtype, kept)
                how["device_map"] = {"": "cpu"}  # moved like any other model
            with _folder_of(location, kind, head) as folder:
                model = _from_folder(
                    folder,
                    kind,
                    head,
                    how,
                    trained_whole=trained_whole,
                    name=location.name,
                    start=start,
                )
            keep_trainable(model)
            if start is not None and start.order is not None:
                reorder_classes(model, start.order)
            if start is not None and start.redrawn:
                draw_head(model, empty())
        if embedding_rows is not None:
            resize_embeddings(model, embedding_rows)
    model.name_or_path = location.name  # what the adapter's config will call its base
    model.requires_grad_(False)
    frozen: PreTrainedModel = model.eval()
    return frozen


def start_of_head(location: ModelLocation, head: Head, *, new: bool = False) -> HeadStart:
    """What the head starts as; only ``config.json`` is read.

    Raises:
        UserError: the checkpoint's head is for other classes.
    """
    folder = location.folder
    config = tiny_config() if folder is None else AutoConfig.from_pretrained(folder)
    return head_start(config, head, new=new, name=location.name)


def _from_folder(
    folder: Path,
    kind: Any,
    head: Head | None,
    how: Mapping[str, Any],
    *,
    trained_whole: Sequence[str],
    name: str,
    start: HeadStart | None,
) -> Any:
    try:
        with _no_report_of_missing_weights():
            model, info = kind.from_pretrained(
                folder,
                config=_with_head(AutoConfig.from_pretrained(folder), head),
                output_loading_info=True,
                ignore_mismatched_sizes=start is not None and start.redrawn,
                **how,
            )
    except (OSError, ValueError, ImportError) as error:
        if "attn_implementation=" in str(error):
            attention = how["attn_implementation"]
            raise UserError(
                f"{name} has no {attention} attention; set model.attention=eager"
            ) from error
        what = "a causal language model" if head is None else "a model with a head"
        raise UserError(f"{name}: cannot be loaded as {what}: {error}") from error
    lost = sorted(set(head_modules(model)) & {key.split(".")[0] for key in info["missing_keys"]})
    if lost and start is not None and start.kept:
        raise UserError(
            f"{name}: its config speaks of a head, but its checkpoint has no weights for "
            f"{', '.join(lost)}; set model.new_head=true"
        )
    other = [
        key for key, *_ in info["mismatched_keys"] if key.split(".")[0] not in head_modules(model)
    ]
    if other:
        raise UserError(f"{name}: the shape of {other[0]} is another than its config says")
    validate_loaded_weights(
        model, info["missing_keys"], head=head is not None, trained_whole=trained_whole, name=name
    )
    return model


@contextmanager
def _folder_of(location: ModelLocation, kind: Any, head: Head | None) -> Iterator[Path]:
    """Where the model's files are; the built-in model is written aside, as it has none."""
    if location.folder is not None:
        yield location.folder
        return
    with temporary_folder() as folder:
        model = _builtin(kind, head)
        # Not save_pretrained: of several processes only the first writes, and each has its folder.
        model.config.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
        yield folder


def _with_head(config: Any, head: Head | None) -> Any:
    """A configuration that speaks of a head in transformers' words."""
    if head is not None:
        config.id2label = dict(enumerate(head.labels)) or {0: "value"}
        config.label2id = {name: number for number, name in config.id2label.items()}
        config.problem_type = head.problem
        config.pad_token_id = head.pad_token_id
        if hasattr(config, "use_cache"):
            config.use_cache = False  # every text is read once
    return config


def _builtin(kind: Any, head: Head | None) -> Any:
    """The model made in code, with a head on it where one is asked for."""
    bare = tiny_model()
    if head is None:
        return bare
    model = kind.from_config(_with_head(tiny_config(), head))
    model.base_model.load_state_dict(bare.base_model.state_dict())
    return model


def _without_weights(
    kind: Any, location: ModelLocation, head: Head | None, dtype: torch.dtype, attention: str
) -> Any:
    folder = location.folder
    config = tiny_config() if folder is None else AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return kind.from_config(
            _with_head(config, head), dtype=dtype, attn_implementation=attention
        )


@contextmanager
def _no_report_of_missing_weights() -> Iterator[None]:
    """Keep transformers from printing the table of what a checkpoint lacks: it is checked here."""
    logger = logging.getLogger("transformers.modeling_utils")

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)
    try:
        yield
    finally:
        logger.removeFilter(only_errors)
