"""Decoding: the same answers at any batch size, yielded batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.streamers import BaseStreamer

from toplora_train.evaluation.decoding.greedy import decode_greedily, new_cache
from toplora_train.evaluation.decoding.prefix import compute_prefix, shares_prompts
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
    """Yield the generated texts as batches finish, longest prompts first.

    Rows of similar length are batched together to reduce padding. Sampling, penalties and beams in
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
        common: Token ids that every prompt begins with; computed once, unless beams or the
            order given are wanted, as in protocols that reproduce others' numbers.
        autocast_dtype: Compute under autocast to this dtype.
        sampling: ``temperature``, ``top_p`` and the like, to sample instead of decoding greedily.
        streamer: Receives the tokens of a single prompt as they are generated, without beams.
    """
    ends = end_token_ids(model, tokenizer)
    pad = pad_token_id(tokenizer, ends)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling is not None,
        **(sampling or {}),
        num_beams=num_beams,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    batches = (
        longest_first(prompts, batch_size)
        if by_length
        else in_slices(range(len(prompts)), batch_size)
    )
    device = next(model.parameters()).device
    with evaluating(model), own_settings_aside(model):
        with torch.inference_mode(), autocast(device, autocast_dtype):
            shares = by_length and num_beams == 1 and shares_prompts(model)
            prefix = compute_prefix(model, common if shares else ())
        for batch in batches:
            inputs = left_padded([prompts[index][prefix.length :] for index in batch], pad)
            if prefix.length:  # padding comes between the prefix and the rest
                begin = torch.tensor([list(common)] * len(batch))
                for name, known in (("input_ids", begin), ("attention_mask", begin.new_ones(()))):
                    inputs[name] = torch.cat([known.expand_as(begin), inputs[name]], dim=1)
            inputs = {name: value.to(device) for name, value in inputs.items()}
            # Not around the yield: the caller's code must not run in inference mode.
            with torch.inference_mode(), autocast(device, autocast_dtype):
                cache = prefix.cache_for(len(batch)) or (new_cache(model) if shares else None)
                if cache is not None and sampling is None and streamer is None:
                    answers = decode_greedily(model, inputs, cache, settings, ends)
                else:
                    tokens = model.generate(  # type: ignore[operator]  # nn.Module hides it
                        **inputs,
                        **({"past_key_values": cache} if prefix.length else {}),
                        generation_config=settings,
                        streamer=streamer,
                        synced_gpus=False,  # of a sharded model, every pass is kept in step
                    )
                    answers = tokens[:, inputs["input_ids"].shape[1] :].tolist()
            for index, answer in zip(batch, answers, strict=True):
                finished = not ends.isdisjoint(answer)
                yield Generated(index, decode_answer(tokenizer, answer, ends), finished)


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
