"""Load a located base model and its tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed import DistributedConfig

from toplora_train.config.aside import temporary_folder
from toplora_train.config.errors import UserError, one_line
from toplora_train.models.embedding import resize_embeddings
from toplora_train.models.folder import STRANGE_MODEL
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
from toplora_train.models.sharded import Shards, is_sharded, place, shard, sharded_class
from toplora_train.models.tiny import tiny_config, tiny_model, tiny_tokenizer

# Reserved tokens that do not occur in text, in order of preference.
SPARE_TOKENS = (
    "<|finetune_right_pad_id|>",
    "<|reserved_special_token_0|>",
    "<|endoftext|>",
    "<pad>",
    "<unk>",
)


def load_tokenizer(location: ModelLocation) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a pad token other than EOS if the vocabulary has a spare one.

    If pad equals EOS, other tools mask the EOS labels and the model never learns to stop; here
    labels are masked by position, but the saved tokenizer is used elsewhere too.

    Raises:
        UserError: the folder has no tokenizer, or one without an EOS token.
    """
    if location.folder is None:
        return tiny_tokenizer()
    with suppress(OSError, ValueError):  # the model's code is refused before anything is tried
        _config_of(location)
    try:
        with _own_code_refused(location.name):
            tokenizer = AutoTokenizer.from_pretrained(
                location.folder, trust_remote_code=location.trusted
            )
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises no narrower one
        raise UserError(
            f"{location.name}: no tokenizer could be read from {location.folder}: {one_line(error)}"
        ) from error
    if tokenizer.eos_token is None and tokenizer.sep_token is None:
        raise UserError(
            f"{location.name}: the tokenizer has no EOS token, so answers could not end"
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
    shards: Shards | None = None,
) -> PreTrainedModel:
    """Load the base model on the CPU, frozen and in evaluation mode.

    Args:
        location: where it is.
        dtype: the dtype of its weights, a torch dtype's name.
        attention: transformers' ``attn_implementation``.
        quantization: ``4bit`` or ``8bit``, or None.
        meta: build it on the meta device, for counting (only ``config.json`` is read); never
            quantised.
        head: the head to add; without one it is a causal language model.
        trained_whole: modules that are fully trained and saved, whose weights may be missing.
        new_head: draw a new head even if the checkpoint has one that fits.
        embedding_rows: number of rows to resize the embedding to; None leaves it as it is.
        seed: seed of the head's initialisation; the global RNG state is preserved.
        shards: the processes to shard it over, on their devices; call it on each of them. A
            quantised model is read whole, and then sharded.

    Raises:
        UserError: the folder cannot be loaded as such a model, weights other than the head's are
            missing, its head has other classes, or the embedding has the rows already.
    """
    start = start_of_head(location, head, new=new_head) if head is not None else None
    kind = (
        AutoModelForCausalLM
        if head is None
        else AutoModelForImageClassification
        if head.images
        else AutoModelForSequenceClassification
    )
    torch_dtype: torch.dtype = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        empty = partial(_without_weights, kind, location, head, torch_dtype, attention)
        whole = [*trained_whole]
        if shards is not None:
            whole += _trained_modules(empty(), head=head is not None, resized=bool(embedding_rows))
        if meta:
            model = empty()
        elif location.folder is None and quantization is None:
            model = _builtin(kind, head).to(torch_dtype)
        else:
            how: dict[str, Any] = {
                "dtype": torch_dtype,
                "attn_implementation": attention,
                "trust_remote_code": location.trusted,
            }
            if quantization is not None:
                kept = head_modules(empty()) if head is not None else None
                how["quantization_config"] = quantization_config(quantization, torch_dtype, kept)
                how["device_map"] = {"": "cpu"}  # moved to the device later, like any model
            elif shards is not None:
                kind = sharded_class(type(empty()), shards, whole)
                how["distributed_config"] = DistributedConfig(fsdp_size=shards.mesh.size())
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
    model.name_or_path = location.name  # base_model_name_or_path in the adapter's config
    model.requires_grad_(False)
    frozen: PreTrainedModel = model.eval()
    if shards is not None:
        if not is_sharded(frozen):
            shard(frozen, shards, whole)
        place(frozen, shards)
    return frozen


def _trained_modules(model: PreTrainedModel, *, head: bool, resized: bool) -> list[str]:
    """The names of the modules that are trained because of a head or a resized embedding."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings()) if resized else ()
    found = [name for name, module in model.named_modules() if module in ends]
    return found + (head_modules(model) if head else [])


def start_of_head(location: ModelLocation, head: Head, *, new: bool = False) -> HeadStart:
    """The head's initialisation; reads only ``config.json``.

    Raises:
        UserError: the checkpoint's head has other classes.
    """
    return head_start(_config_of(location), head, new=new, name=location.name)


def _config_of(location: ModelLocation) -> Any:
    if location.folder is None:
        return tiny_config()
    with _own_code_refused(location.name):
        return AutoConfig.from_pretrained(location.folder, trust_remote_code=location.trusted)


@contextmanager
def _own_code_refused(name: str) -> Iterator[None]:
    """Say in one line that the model has code of its own, which transformers would not run.

    ``trust_remote_code`` is always given, as transformers would otherwise ask on standard input.
    """
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{name} needs Python code of its own (auto_map), which is not run; if you trust it, "
            "set model.trust_remote_code=true (toplora-eval and -export: trust_remote_code=true)"
        ) from error


@contextmanager
def _strange_model_named(name: str, head: Head | None, attention: str) -> Iterator[None]:
    """Turn what transformers raises for a strange config or weights into one line."""
    try:
        yield
    except (OSError, ValueError, ImportError, *STRANGE_MODEL) as error:
        if "attn_implementation=" in str(error):
            raise UserError(
                f"{name} has no {attention} attention; set model.attention=eager"
            ) from error
        what = "a causal language model" if head is None else "a model with a head"
        raise UserError(f"{name}: cannot be loaded as {what}: {one_line(error)}") from error


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
    redrawn = start is not None and start.redrawn
    with (
        _strange_model_named(name, head, how["attn_implementation"]),
        _no_report_of_missing_weights(),
        _own_code_refused(name),
    ):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=how["trust_remote_code"])
        model, info = kind.from_pretrained(
            folder,
            config=_with_head(config, head),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named below
            **how,
        )
    lost = sorted(set(head_modules(model)) & {key.split(".")[0] for key in info["missing_keys"]})
    if lost and start is not None and start.kept:
        raise UserError(
            f"{name}: its config has a head, but its checkpoint has no weights for "
            f"{', '.join(lost)}; set model.new_head=true"
        )
    other = [
        key
        for key, *_ in info["mismatched_keys"]
        if not (redrawn and key.split(".")[0] in head_modules(model))
    ]
    if other:
        raise UserError(f"{name}: the shape of {other[0]} does not match its config.json")
    validate_loaded_weights(
        model, info["missing_keys"], head=head is not None, trained_whole=trained_whole, name=name
    )
    return model


@contextmanager
def _folder_of(location: ModelLocation, kind: Any, head: Head | None) -> Iterator[Path]:
    """The folder with the model's files; the built-in model is saved to a temporary one."""
    if location.folder is not None:
        yield location.folder
        return
    with temporary_folder() as folder:
        model = _builtin(kind, head)
        # Not save_pretrained, which writes on the main process only: each has its own folder.
        model.config.save_pretrained(folder)
        save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
        yield folder


def _with_head(config: Any, head: Head | None) -> Any:
    """The config with transformers' settings for the head."""
    if head is not None:
        config.id2label = dict(enumerate(head.labels)) or {0: "value"}
        config.label2id = {name: number for number, name in config.id2label.items()}
        config.problem_type = head.problem
        if not head.images:
            config.pad_token_id = head.pad_token_id
        if hasattr(config, "use_cache"):
            config.use_cache = False  # one forward pass per text
    return config


def _builtin(kind: Any, head: Head | None) -> Any:
    """The built-in model, with the head if one is given."""
    bare = tiny_model()
    if head is None:
        return bare
    model = kind.from_config(_with_head(tiny_config(), head))
    model.base_model.load_state_dict(bare.base_model.state_dict())
    return model


def _without_weights(
    kind: Any, location: ModelLocation, head: Head | None, dtype: torch.dtype, attention: str
) -> Any:
    with (
        torch.device("meta"),
        _strange_model_named(location.name, head, attention),
        _own_code_refused(location.name),
    ):
        return kind.from_config(
            _with_head(_config_of(location), head),
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=location.trusted,
        )


@contextmanager
def _no_report_of_missing_weights() -> Iterator[None]:
    """Silence transformers' table of missing weights: :func:`_from_folder` checks them."""
    logger = logging.getLogger("transformers.modeling_utils")

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(only_errors)
    try:
        yield
    finally:
        logger.removeFilter(only_errors)
