"""The head of a model that classifies a text or gives it a number.

A checkpoint of a language model has none: it starts at random, and is trained and saved whole with
the adapter.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from toplora_train.config.errors import UserError


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


def refuse_random_parts(
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
