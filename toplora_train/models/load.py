"""Load a located base model and its tokenizer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from toplora_train.config.errors import UserError
from toplora_train.models.locate import ModelLocation
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
    location: ModelLocation, *, dtype: str, attention: str = "sdpa", meta: bool = False
) -> PreTrainedModel:
    """The base model in evaluation mode on the CPU, frozen.

    Args:
        location: where it is.
        dtype: the number format of its weights, a name of torch's.
        attention: the attention implementation, in transformers' words.
        meta: build it without weights, for counting (nothing is read but ``config.json``).

    Raises:
        UserError: the folder cannot be loaded as a causal language model.
    """
    torch_dtype: torch.dtype = getattr(torch, dtype)
    if meta:
        model = _without_weights(location, torch_dtype, attention)
    elif location.folder is None:
        model = tiny_model().to(torch_dtype)
    else:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                location.folder, dtype=torch_dtype, attn_implementation=attention
            )
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"{location.name}: cannot be loaded as a causal language model: {error}"
            ) from error
    model.name_or_path = location.name  # what the adapter's config will call its base
    model.requires_grad_(False)
    return model.eval()


def _without_weights(location: ModelLocation, dtype: torch.dtype, attention: str) -> Any:
    with torch.device("meta"):
        if location.folder is None:
            return AutoModelForCausalLM.from_config(tiny_config(), dtype=dtype)
        config = AutoConfig.from_pretrained(location.folder)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
