"""Several optimizers as one: each for some of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


class InParts(torch.optim.Optimizer):
    """Optimizers that step together and have one state, so that a checkpoint holds it.

    Args:
        parts: The optimizers; no parameter is in two of them.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of each part, and what it keeps besides them."""
        for part in self._parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is given here
        """Step each part."""
        assert closure is None
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of all parts."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Make the parts use this optimizer's own state and parameter groups."""
        first = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.state = self.state
            part.param_groups = self.param_groups[first : first + count]
            first += count


def select(
    groups: Sequence[Mapping[str, Any]], wanted: Callable[[torch.nn.Parameter], bool]
) -> list[dict[str, Any]]:
    """The groups, restricted to the wanted parameters; empty ones are left out."""
    chosen = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in chosen if group["params"]]


def on_cuda(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a parameter is on a GPU, where torch's AdamW is fused."""
    return any(p.device.type == "cuda" for group in groups for p in group["params"])
