"""Batched inference: evaluation mode, autocast, padding, and the arguments of forward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedTokenizerBase

from toplora_train.models.sharded import is_sharded

BLOCK = 4096
"""Rows of a sharded output layer that are converted to fp32 at a time."""


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end an answer: the tokenizer's EOS and the generation config's."""
    own: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = own if isinstance(own, (list, tuple)) else [own]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


def pad_token_id(tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> int:
    """The id to pad batches with: the pad token, else an EOS (padding is masked anyway)."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Return left-padded ``input_ids`` and ``attention_mask``, ``(rows, longest prompt)``.

    transformers derives position ids from the attention mask, so a row's first real token is at
    position 0 whatever the padding.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def longest_first(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Batches of indices by length, longest first, so that running out of memory shows at once."""
    return in_slices(by_length(prompts), batch_size)


def by_length(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The indices of the prompts, longest first; a stable order."""
    return sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))


def in_slices(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Split ``order`` into batches."""
    return [list(order[at : at + batch_size]) for at in range(0, len(order), batch_size)]


def forward_takes(model: nn.Module, argument: str) -> bool:
    """Whether the base model's forward has an argument of this name."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    return argument in inspect.signature(base.forward).parameters


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to ``dtype``; None disables it."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and computes its logits in fp32."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with _exact_logits(model):
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _exact_logits(model: nn.Module) -> Iterator[None]:
    """Inside, the LM head computes in fp32, whatever the dtype of the rest.

    In bf16 a logit near 20 is a multiple of 1/8, so two answers often tie, and the vocabulary order
    would decide. Hidden states are made contiguous because torch multiplies a view (the last
    positions of a batch) row by row, copying the head for each.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if type(head) is not nn.Linear and type(head).__bases__ != (FSDPModule, nn.Linear):
        yield  # a head with an adapter
        return
    sharded = is_sharded(model)
    weight = None if sharded else head.weight.float()
    bias = None if sharded or head.bias is None else head.bias.float()

    def exact(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float().contiguous()
            if weight is not None:
                return nn.functional.linear(hidden, weight, bias)
            # Whole only now; in blocks, as in fp32 it would be the largest tensor of all.
            blocks = [nn.functional.linear(hidden, b.float()) for b in head.weight.split(BLOCK)]
            logits = torch.cat(blocks, dim=-1)
            return logits if head.bias is None else logits + head.bias.float()

    attributes = vars(head)  # an instance's forward takes precedence over its class's
    before = attributes.get("forward")
    attributes["forward"] = exact
    try:
        yield
    finally:
        if before is None:
            del attributes["forward"]
        else:
            attributes["forward"] = before
