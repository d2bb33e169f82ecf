"""The classification or regression head of a model.

A language model's checkpoint has none: the head is initialised at random, fully trained, and saved
with the adapter. A classifier's checkpoint has one, which is kept if it has the same classes,
compared by name, not by index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toplora_train.config.errors import UserError

HEAD_ARCHITECTURES = (
    "ForSequenceClassification",
    "ForImageClassification",
    "ForImageClassificationWithTeacher",  # DeiT's, with two heads
)
_GENERIC = re.compile(r"(label[\s_-]?)?\d+", re.IGNORECASE)  # such as LABEL_0: unnamed


@dataclass(frozen=True)
class Head:
    """The head that a task needs.

    Attributes:
        labels: The class names in order of their indices; empty for regression.
        pad_token_id: The padding id, by which a decoder finds a text's last token; None for images.
    """

    labels: tuple[str, ...]
    pad_token_id: int | None

    @property
    def images(self) -> bool:
        """Whether the model takes images instead of texts."""
        return self.pad_token_id is None

    @property
    def problem(self) -> str:
        """Transformers' ``problem_type``."""
        return "single_label_classification" if self.labels else "regression"


@dataclass(frozen=True)
class HeadStart:
    """A head's initialisation.

    Attributes:
        kept: Whether it is the checkpoint's own.
        said: A description for the log and the report.
        order: For each class of the task, the checkpoint's index of it; None if they agree.
        redrawn: Whether a new head replaces the checkpoint's.
    """

    kept: bool
    said: str
    order: tuple[int, ...] | None = None
    redrawn: bool = False


def head_start(config: Any, head: Head, *, new: bool, name: str) -> HeadStart:
    """Decide a head's initialisation from the checkpoint's config.

    Args:
        config: The checkpoint's config as stored.
        head: The head that the task needs.
        new: Whether to draw a new head in any case.
        name: The model's name, for messages.

    Raises:
        UserError: The checkpoint's head has as many classes, but with other names.
    """
    architectures = getattr(config, "architectures", None) or ()
    if not any(one.endswith(HEAD_ARCHITECTURES) for one in architectures):
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
    expected = [_plain(one) for one in head.labels]
    if sorted(found) != sorted(expected):
        raise UserError(
            f"{name}: its head has the classes {', '.join(names)}, the task's are "
            f"{', '.join(head.labels)}; draw a new head with model.new_head=true, or correct the "
            "task's choices"
        )
    if found == expected:
        return HeadStart(True, f"the checkpoint's own ({', '.join(names)})")
    return HeadStart(
        True,
        f"the checkpoint's own, its classes ({', '.join(names)}) put in the task's order "
        f"({', '.join(head.labels)})",
        tuple(found.index(one) for one in expected),
    )


@torch.no_grad()
def reorder_classes(model: nn.Module, order: Sequence[int]) -> None:
    """Permute the outputs of the head's last layer.

    Raises:
        ValueError: The head has no linear layer with that many outputs.
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
    """Replace the model's head by a new one with the architecture's initialisation.

    Args:
        model: A transformers model.
        empty: The same model without weights, whose head has the right size and is taken.
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
    """The names of the modules with weights on top of the base model: ``classifier``, ``score``.

    In some architectures (DeBERTa) this includes a pooler: it is random too, and if it were frozen
    and not saved it would differ each time the adapter is loaded.
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
    """Refuse a checkpoint with missing weights other than the head's: they would stay random.

    Args:
        model: The model as built.
        missing: The weights missing from the checkpoint.
        head: Whether the model has a head; without one nothing may be missing.
        trained_whole: Modules that are fully trained and saved with the adapter.
        name: The model's name, for messages.

    Raises:
        UserError: names the module.
    """
    allowed = {*(head_modules(model) if head else ()), *trained_whole}
    lost = sorted(key for key in missing if not allowed & set(key.split(".")))
    if lost:
        part = lost[0].rpartition(".")[0]
        raise UserError(
            f"{name}: its checkpoint has no weights for {part}, which would stay random; train "
            f"the whole module: adapter.modules_to_save=[{_nearest(part)}]"
        )


def _nearest(part: str) -> str:
    """The outermost module of a dotted name, below the model itself: ``pooler``."""
    pieces = part.split(".")
    return pieces[1] if len(pieces) > 1 else pieces[0]
