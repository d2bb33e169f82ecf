"""A model asked in batches: evaluation mode, number format, padding, and what its forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end an answer: the tokenizer's EOS and the model's own."""
    own: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = own if isinstance(own, (list, tuple)) else [own]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


def pad_token_id(tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> int:
    """Return what fills the gaps of a batch: the pad token, else an end (it is masked)."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask``, (rows, longest prompt), prompts to the right.

    transformers counts the positions from the attention mask, so that a row's first real token
    stands at position 0 however much is padded before it.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def longest_first(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Return batches of indices, rows of about one length together.

    The longest first: memory that does not suffice shows at once.
    """
    return in_slices(by_length(prompts), batch_size)


def by_length(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Return the indices of the prompts, the longest first; equally long ones stay in order."""
    return sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))


def in_slices(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return ``order`` cut into batches."""
    return [list(order[at : at + batch_size]) for at in range(0, len(order), batch_size)]


def forward_takes(model: nn.Module, argument: str) -> bool:
    """Whether the model's forward, below any adapter, has an argument of this name."""
    base: Any = getattr(model, "get_base_model", lambda: model)()
    return argument in inspect.signature(base.forward).parameters


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Compute in this number format where torch deems it safe; ``None``: in the weights' own."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and logits that are not rounded; afterwards all is as it was."""
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
    """Inside, the head multiplies in fp32, whatever the number format of the rest.

    A logit of 20 in bf16 is a multiple of 1/8: between two answers that is often a draw, which the
    order of the vocabulary then decides. The hidden states get to the head in one piece, as torch
    multiplies a view (the last places of a batch) row by row, with a copy of the head for each.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if type(head) is not nn.Linear or isinstance(head.weight, DTensor):
        yield  # a head with an adapter of its own, or shared out among processes
        return
    weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()

    def exact(hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float().contiguous(), weight, bias)

    own = vars(head)  # a forward here comes before the class's
    before = own.get("forward")
    own["forward"] = exact
    try:
        yield
    finally:
        if before is None:
            del own["forward"]
        else:
            own["forward"] = before
