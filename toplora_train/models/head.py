"""The head of a model that classifies a text or gives it a number.

A checkpoint of a language model has none: it starts at random, and is trained and saved whole with
the adapter. One that was trained to classify has its own, which is taken over where it is for the
same classes, whose names decide, not their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError

HEAD_ARCHITECTURE = "ForSequenceClassification"
_GENERIC = re.compile(r"(label[\s_-]?)?\d+", re.IGNORECASE)  # LABEL_0: what nobody named


@dataclass(frozen=True)
class Head:
    """What the model answers with.

    Attributes:
        labels: The classes' names in the order of their numbers; none for a head that gives a
            number.
        pad_token_id: Padding, which a decoder must not take for the end of the text.
    """

    labels: tuple[str, ...]
    pad_token_id: int

    @property
    def problem(self) -> str:
        """What transformers calls it."""
        return "single_label_classification" if self.labels else "regression"


@dataclass(frozen=True)
class HeadStart:
    """What a head starts as.

    Attributes:
        kept: Whether it is the checkpoint's own.
        said: That in words.
        order: For each class of the task, the checkpoint's number of it; None where they agree.
        redrawn: Whether a new one takes the place of the checkpoint's own.
    """

    kept: bool
    said: str
    order: tuple[int, ...] | None = None
    redrawn: bool = False


def head_start(config: Any, head: Head, *, new: bool, name: str) -> HeadStart:
    """What the head starts as, by what the checkpoint's own config says of its head.

    Args:
        config: The checkpoint's, as it was stored.
        head: The head that the task needs.
        new: Whether a new one is wanted in any case.
        name: The model's, for the message.

    Raises:
        UserError: The checkpoint's head is for as many classes, but they are called otherwise.
    """
    architectures = getattr(config, "architectures", None) or ()
    if not any(one.endswith(HEAD_ARCHITECTURE) for one in architectures):
        return HeadStart(False, "new, drawn at random: the checkpoint has none")
    outputs, wanted = len(config.id2label), max(1, len(head.labels))
    needs = f"{wanted} classes" if head.labels else "a number"
    if new:
        said = "new, drawn at random, in the place of the checkpoint's own"
        return HeadStart(False, said, redrawn=True)
    if outputs != wanted:
        has = f"{outputs} output{'' if outputs == 1 else 's'}"
        return HeadStart(
            False,
            f"new, drawn at random: the checkpoint's has {has}, the task needs {needs}",
            redrawn=True,
        )
    names = [str(config.id2label[number]) for number in range(outputs)]
    if not head.labels or all(_GENERIC.fullmatch(one) for one in names):
        return HeadStart(True, "the checkpoint's own")
    found = [_plain(one) for one in names]
    asked = [_plain(one) for one in head.labels]
    if sorted(found) != sorted(asked):
        raise UserError(
            f"{name}: its head knows the classes {', '.join(names)}, the task's are "
            f"{', '.join(head.labels)}; draw a new head with model.new_head=true, or correct the "
            "task's choices"
        )
    if found == asked:
        return HeadStart(True, f"the checkpoint's own ({', '.join(names)})")
    return HeadStart(
        True,
        f"the checkpoint's own, its classes ({', '.join(names)}) put in the task's order "
        f"({', '.join(head.labels)})",
        tuple(found.index(one) for one in asked),
    )


@torch.no_grad()
def reorder_classes(model: nn.Module, order: Sequence[int]) -> None:
    """Put the rows of the head's last layer into another order.

    Raises:
        ValueError: The head has no linear layer with so many outputs.
    """
    last = [
        layer
        for name in head_modules(model)
        for layer in model.get_submodule(name).modules()
        if getattr(layer, "out_features", None) == len(order)
    ]
    if not last:
        raise ValueError(f"no layer of the head has {len(order)} outputs")
    for parameter in last[-1].parameters():  # weight (classes, width), bias (classes,)
        parameter.copy_(parameter[list(order)].clone())


def draw_head(model: Any, empty: Any) -> None:
    """Put a new head on the model, drawn as the architecture draws one.

    Args:
        model: A model of transformers.
        empty: The same without weights, with a head of the right size, which is taken from it.
    """
    dtype = next(model.parameters()).dtype
    for name in head_modules(empty):
        part = getattr(empty, name).to_empty(device="cpu")
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        part.apply(empty._init_weights)
        setattr(model, name, part.to(dtype))


def _plain(name: str) -> str:
    """A class's name without case, blanks, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).casefold()


def head_modules(model: nn.Module) -> list[str]:
    """The names of the modules with weights that stand on the encoder: ``classifier``, ``score``.

    With some architectures a pooling layer is among them (DeBERTa): it is as random as the rest,
    and frozen and left out of the file it would be another one whenever the adapter is loaded.
    """
    prefix = getattr(model, "base_model_prefix", "")
    return [
        name
        for name, module in model.named_children()
        if name != prefix and any(True for _ in module.parameters())
    ]


def validate_loaded_weights(
    model: nn.Module,
    missing: Iterable[str],
    *,
    head: bool,
    trained_whole: Sequence[str],
    name: str,
) -> None:
    """Refuse a checkpoint that lacks weights besides a new head's: they would be random and frozen.

    Args:
        model: As it was built.
        missing: The weights that the checkpoint did not hold.
        head: Whether a head was put on it; without one nothing may lack.
        trained_whole: Modules that are trained and saved with the adapter.
        name: The model's, for the message.

    Raises:
        UserError: names the part.
    """
    fine = {*(head_modules(model) if head else ()), *trained_whole}
    lost = sorted(key for key in missing if not fine & set(key.split(".")))
    if lost:
        part = lost[0].rpartition(".")[0]
        raise UserError(
            f"{name}: its checkpoint has no weights for {part}, which would stay random; train "
            f"that part whole: adapter.modules_to_save=[{_nearest(part)}]"
        )


def _nearest(part: str) -> str:
    """The outermost named module of a part, below the model's own name: ``pooler``."""
    pieces = part.split(".")
    return pieces[1] if len(pieces) > 1 else pieces[0]
