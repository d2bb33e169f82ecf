"""One pass over a prompt for all answers that may follow it.

The answers of a multiple-choice task begin alike ("the correct answer is ..."). So a batch of
prompts, each with that common beginning, goes through the model once and leaves its keys and values
behind; what is left of an answer (a digit, mostly, and EOS) is a second, tiny pass over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from toplora_train.config.errors import UserError
from toplora_train.evaluation.forward import forward_takes, left_padded


@dataclass(frozen=True)
class Options:
    """Answers as token ids: ``shared`` is the beginning of all, ``tails`` what is left of each."""

    shared: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each whole answer."""
        return [len(self.shared) + len(tail) for tail in self.tails]


def encode_options(
    tokenizer: PreTrainedTokenizerBase, responses: Sequence[str], *, end: Sequence[int] = ()
) -> Options:
    """Encode answers as training rows encode their response, with ``end`` (EOS) after each.

    Raises:
        UserError: two answers are the same tokens, so that nothing could tell them apart.
    """
    encoded = [
        (*ids, *end) for ids in tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    ]
    for index, ids in enumerate(encoded):
        if ids in encoded[:index]:
            raise UserError(
                f"the choices {responses[encoded.index(ids)]!r} and {responses[index]!r} are the "
                "same tokens; correct the task's choices"
            )
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*encoded, strict=False))
    shared = tuple(tokens[0] for tokens in alike)
    return Options(shared, tuple(ids[len(shared) :] for ids in encoded))


@dataclass(frozen=True)
class Begun:
    """A batch of prompts and the shared beginning of their answers, gone through the model.

    Attributes:
        logits: ``(rows, shared + 1, vocabulary)``, float32: what was said about each token of the
            shared beginning, and about the one after it.
        mask: ``(rows, width)``, 1 where a token stands.
        cache: The keys and values so far.
    """

    logits: Tensor
    mask: Tensor
    cache: Any

    @property
    def can_go_on(self) -> bool:
        """Whether single rows can be taken out of the cache; a recurrent state knows no rows."""
        layers = getattr(self.cache, "layers", ())
        return bool(layers) and all(hasattr(one, "batch_select_indices") for one in layers)


def shares_prompts(model: nn.Module) -> bool:
    """Whether one pass over a prompt can serve several answers.

    An adapter of virtual tokens (prompt tuning and its kin) puts its own before a prompt, and an
    encoder-decoder has no prompt to go on from.
    """
    configs = getattr(model, "peft_config", {})
    virtual = any(getattr(one, "is_prompt_learning", False) for one in configs.values())
    return not virtual and not getattr(model.config, "is_encoder_decoder", False)


def begin(
    model: nn.Module, prompts: Sequence[Sequence[int]], shared: Sequence[int], *, pad: int
) -> Begun:
    """Send prompts with the shared beginning through the model."""
    device = next(model.parameters()).device
    inputs = left_padded([[*prompt, *shared] for prompt in prompts], pad)
    mask = inputs["attention_mask"].to(device)
    kept = len(shared) + 1
    extra: dict[str, Any] = {}
    if forward_takes(model, "position_ids"):
        extra["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    if forward_takes(model, "logits_to_keep"):  # the others are most of the memory
        extra["logits_to_keep"] = kept
    output = model(
        input_ids=inputs["input_ids"].to(device), attention_mask=mask, use_cache=True, **extra
    )
    return Begun(output.logits[:, -kept:].float(), mask, output.past_key_values)


def go_on(
    model: nn.Module,
    begun: Begun,
    rows: Sequence[int],
    tails: Sequence[Sequence[int]],
    *,
    pad: int,
) -> Tensor:
    """Send one tail after each of ``rows``; the cache is used up.

    Args:
        model: The model that began.
        begun: What :func:`begin` returned.
        rows: For each tail, the row of the batch that it goes on from; rows may repeat.
        tails: Token ids; none empty.
        pad: What fills the shorter ones.

    Returns:
        The logits after each token, ``(tails, longest tail, vocabulary)``, float32.
    """
    device = begun.mask.device
    width = max(len(tail) for tail in tails)
    chosen = torch.tensor(list(rows), device=device)
    ids = torch.tensor([[*tail, *[pad] * (width - len(tail))] for tail in tails], device=device)
    real = torch.tensor(
        [[1] * len(tail) + [0] * (width - len(tail)) for tail in tails], device=device
    )
    mask = begun.mask[chosen]
    extra: dict[str, Any] = {}
    if forward_takes(model, "position_ids"):
        extra["position_ids"] = mask.sum(-1, keepdim=True) + torch.arange(width, device=device)
    begun.cache.batch_select_indices(chosen)
    output = model(
        input_ids=ids,
        attention_mask=torch.cat([mask, real], dim=1),
        past_key_values=begun.cache,
        use_cache=True,
        **extra,
    )
    logits: Tensor = output.logits.float()
    return logits
