"""Greedy generation: the same answers at any batch size, given out batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield ``(index of the prompt, generated text)`` as batches are done, longest prompts first.

    The longest first: memory that does not suffice shows at once, and rows of a batch are of about
    one length, so little is padded. Decoding takes the most probable token whatever sampling,
    penalties or beams the model's own generation settings ask for. Each row ends at its first EOS,
    the tokenizer's or one of the model's.

    Args:
        model: A causal language model, plain or with an adapter, on any device.
        tokenizer: Decodes, and names the EOS and the pad token.
        prompts: Token ids, one sequence per prompt; none empty.
        max_new_tokens: The most tokens a row may get.
        batch_size: Rows per forward pass.
        autocast_dtype: Compute under autocast in this number format.
    """
    ends = end_token_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends, default=0)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    device = next(model.parameters()).device
    with _evaluating(model), _own_settings_aside(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            inputs = left_padded([prompts[index] for index in batch], pad)
            # Not around the yield: the caller's code is not to run in inference mode.
            with torch.inference_mode(), _autocast(device, autocast_dtype):
                tokens = model.generate(  # type: ignore[operator]  # nn.Module hides it
                    **{name: tensor.to(device) for name, tensor in inputs.items()},
                    generation_config=settings,
                )
            answers = tokens[:, inputs["input_ids"].shape[1] :].tolist()
            for index, answer in zip(batch, answers, strict=True):
                yield index, _decode(tokenizer, answer, ends)


def end_token_ids(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids that end an answer: the tokenizer's EOS and the model's own."""
    own: Any = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = own if isinstance(own, (list, tuple)) else [own]
    return {int(token) for token in [*ids, tokenizer.eos_token_id] if token is not None}


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask``, (rows, longest prompt), prompts to the right.

    transformers counts the positions from the attention mask, so that a row's first real token
    stands at position 0 however much is padded before it.
    """
    width = max(len(prompt) for prompt in prompts)
    ids = [[pad_token_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def _decode(tokenizer: PreTrainedTokenizerBase, answer: list[int], ends: set[int]) -> str:
    end = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    text = tokenizer.decode(
        answer[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _own_settings_aside(model: nn.Module) -> Iterator[None]:
    """Set the model's own generation settings aside: transformers fills every gap from them.

    They hold a repetition penalty in some instruction-tuned models, which is not greedy decoding.
    An adapter's wrapper may hold settings beside its model: every holder gets its own back.
    """
    holders: list[Any] = [m for m in model.modules() if "generation_config" in vars(m)]
    kept = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, own in zip(holders, kept, strict=True):
            holder.generation_config = own
