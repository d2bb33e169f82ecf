"""The adapter under test, on tiny models, and what its checks have in common."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import torch
import yaml
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from toplora_train.adapters.attach import attach_adapter
from toplora_train.models.tiny import tiny_model

Model = Callable[[], nn.Module]


@dataclass(frozen=True)
class Subject:
    """An adapter under test.

    Attributes:
        name: The adapter's name.
        file: Its YAML.
        mixes: Whether one batch may mix several adapters; PEFT's DoRA does not support it.
        for_fused: Settings for a model with one matrix for query, key and value.
    """

    name: str
    file: Path
    mixes: bool = True
    for_fused: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The YAML's settings as in a run, without dropout, which is random."""
        settings = copy.deepcopy(_parsed(self.file.read_text(encoding="utf-8")))
        if "dropout" in settings:
            settings["dropout"] = 0.0
        settings.pop("defaults", None)  # Hydra's
        return {**settings, **changes}

    def attached(self, model: nn.Module | None = None, *, seed: int = 1, **changes: Any) -> Any:
        """A model, by default the tiny Llama, with the adapter attached."""
        base = tiny_model() if model is None else model
        return attach_adapter(base, self.settings(**changes), seed=seed)


@cache
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)


def shaken(model: PeftModel, seed: int = 0, size: float = 1 / 8) -> Any:
    """Perturb all trainable tensors, so that no zero hides a fault."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * size
                parameter.add_(noise.to(parameter.dtype))
    return model.eval()


def token_ids(rows: int = 2, length: int = 7) -> Tensor:
    """Tokens of a batch, ``(rows, length)``."""
    return torch.randint(2, 250, (rows, length), generator=torch.Generator().manual_seed(5))


def tensors(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by their names in a file."""
    found: dict[str, Tensor] = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


@torch.no_grad()
def logits(model: nn.Module, **inputs: Any) -> Tensor:
    """The logits of a model call, by default on :func:`token_ids`."""
    inputs = inputs or {"input_ids": token_ids()}
    found: Tensor = model.eval()(**inputs).logits
    return found


def require(holds: bool, otherwise: str) -> None:
    """Raise an ``AssertionError`` unless it holds; unlike ``assert``, with ``python -O`` too."""
    if not holds:
        raise AssertionError(otherwise)


def require_same(found: Tensor, expected: Tensor, what: str) -> None:
    """Require equal bits."""
    require(
        torch.equal(found, expected),
        f"{what} differ by up to {float((found - expected).abs().max()):.3g}; they must be equal",
    )


@contextmanager
def refused(kind: type[Exception], message: str) -> Iterator[None]:
    """Require the block to raise ``kind`` with a message that matches a regular expression."""
    try:
        yield
    except kind as error:
        require(
            re.search(message, str(error)) is not None,
            f"the error message is {str(error)!r}; it must match {message!r}",
        )
        return
    raise AssertionError(f"nothing was raised; a {kind.__name__} is expected ({message})")


@contextmanager
def no_network() -> Iterator[None]:
    """Fail where the block looks up an address."""
    failure = AssertionError("it used the network")
    with ExitStack() as stack:
        stack.enter_context(mock.patch("socket.getaddrinfo", side_effect=failure))
        stack.enter_context(mock.patch("huggingface_hub.constants.HF_HUB_OFFLINE", False))
        yield


def encoder() -> nn.Module:
    """A classifier with named query, key and value, and a head that is trained."""
    torch.manual_seed(0)
    model: nn.Module = RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=258,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=32,
        )
    )
    return model


def transposed() -> nn.Module:
    """A decoder whose layers store transposed weights, with one matrix for query, key, value."""
    torch.manual_seed(0)
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=258,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    return model


ARCHITECTURES: dict[str, tuple[Model, frozenset[str]]] = {
    "encoder": (encoder, frozenset({"query", "key", "value", "classifier"})),
    "transposed": (transposed, frozenset({"c_attn"})),
}
"""Models and the modules that are trained in them by default."""
