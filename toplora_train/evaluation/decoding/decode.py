"""Decoding: the same answers at any batch size, yielded as they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from toplora_train.evaluation.decoding.greedy import decode_greedily, rows_can_leave
from toplora_train.evaluation.decoding.prefix import shares_prompts
from toplora_train.evaluation.forward import (
    autocast,
    end_token_ids,
    evaluating,
    in_slices,
    left_padded,
    longest_first,
    pad_token_id,
)


@dataclass(frozen=True)
class Generated:
    """A generated text.

    Attributes:
        index: The index of its prompt.
        text: The text before the first EOS.
        finished: Whether it ends in an EOS; else it was cut off at ``max_new_tokens``.
    """

    index: int
    text: str
    finished: bool


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    num_beams: int = 1,
    by_length: bool = True,
    common: Sequence[int] = (),
    autocast_dtype: torch.dtype | None = None,
    sampling: Mapping[str, Any] | None = None,
    streamer: BaseStreamer | None = None,
) -> Iterator[Generated]:
    """Yield the generated texts as they end, beginning with the longest prompts.

    Rows of similar length are decoded together to reduce padding. Sampling, penalties and beams in
    the model's own generation config are ignored. Each row ends at its first EOS, the tokenizer's
    or one of the model's.

    Args:
        model: A causal language model, with or without an adapter, on any device.
        tokenizer: Its tokenizer.
        prompts: Token ids, one sequence per prompt; none empty.
        max_new_tokens: The most tokens generated per row.
        batch_size: Rows per forward pass.
        num_beams: Beams of beam search; 1 is greedy decoding.
        by_length: Whether to batch by length, or in the order given.
        common: Token ids that every prompt begins with; computed once, but not with beams,
            sampling or ``by_length=False``.
        autocast_dtype: Compute under autocast to this dtype.
        sampling: ``temperature``, ``top_p`` and the like, to sample instead of decoding greedily.
        streamer: Receives the tokens of a single prompt as they are generated, without beams.
    """
    ends = end_token_ids(model, tokenizer)
    pad = pad_token_id(tokenizer, ends)
    plain = by_length and num_beams == 1 and sampling is None and streamer is None
    with evaluating(model), own_settings_aside(model):
        with torch.inference_mode(), autocast(next(model.parameters()).device, autocast_dtype):
            leaving = (
                plain and len(prompts) > 0 and shares_prompts(model) and rows_can_leave(model, pad)
            )
        if leaving:
            found = decode_greedily(
                model,
                prompts,
                common=common,
                max_new_tokens=max_new_tokens,
                batch_size=batch_size,
                ends=ends,
                pad=pad,
                autocast_dtype=autocast_dtype,
            )
        else:
            settings = GenerationConfig(
                max_new_tokens=max_new_tokens,
                do_sample=sampling is not None,
                **(sampling or {}),
                num_beams=num_beams,
                use_cache=True,
                pad_token_id=pad,
                eos_token_id=sorted(ends) or None,
            )
            order = longest_first if by_length else _as_given
            batches = order(prompts, batch_size)
            found = _in_batches(model, prompts, batches, settings, streamer, autocast_dtype)
        for index, answer in found:
            finished = not ends.isdisjoint(answer)
            yield Generated(index, decode_answer(tokenizer, answer, ends), finished)


def _as_given(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    return in_slices(range(len(prompts)), batch_size)


def _in_batches(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    batches: Sequence[Sequence[int]],
    settings: GenerationConfig,
    streamer: BaseStreamer | None,
    autocast_dtype: torch.dtype | None,
) -> Iterator[tuple[int, list[int]]]:
    """The tokens after each prompt, batch by batch: for beams, samples and any kind of model."""
    device = next(model.parameters()).device
    for batch in batches:
        inputs = left_padded([prompts[index] for index in batch], int(settings.pad_token_id))
        # Not around the yield: the caller's code must not run in inference mode.
        with torch.inference_mode(), autocast(device, autocast_dtype):
            tokens = model.generate(  # type: ignore[operator]  # nn.Module hides it
                **{name: value.to(device) for name, value in inputs.items()},
                generation_config=settings,
                streamer=streamer,
                synced_gpus=False,  # of a sharded model, every pass is kept in step
            )
        yield from zip(batch, tokens[:, inputs["input_ids"].shape[1] :].tolist(), strict=True)


def decode_answer(tokenizer: PreTrainedTokenizerBase, answer: list[int], ends: set[int]) -> str:
    """Decode the ids up to the first one in ``ends``."""
    end = next((place for place, token in enumerate(answer) if token in ends), len(answer))
    text = tokenizer.decode(
        answer[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


@contextmanager
def own_settings_aside(model: nn.Module) -> Iterator[None]:
    """Inside, the model's generation configs are empty: transformers fills every gap from them.

    In some instruction-tuned models they set a repetition penalty, which is not greedy decoding. An
    adapter's wrapper may have a config besides its model's; each is restored.
    """
    holders: list[Any] = [m for m in model.modules() if "generation_config" in vars(m)]
    saved = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, config in zip(holders, saved, strict=True):
            holder.generation_config = config
