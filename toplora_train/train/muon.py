"""Muon for matrices, AdamW for the rest, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from toplora_train.config.errors import UserError


class MuonAndAdamW(torch.optim.Optimizer):
    """Torch's Muon (Jordan et al., 2024) for 2-D tensors, AdamW for all others.

    Muon's updates are scaled to the RMS of AdamW's (Liu et al., 2025, arXiv 2502.16982, section
    2.2), so both take the same learning rate and weight decay. Nesterov momentum of 0.95, five
    Newton-Schulz iterations.

    Args:
        groups: Parameter groups, as from :func:`toplora_train.train.optimizer.parameter_groups`.
        lr: The learning rate.
        betas: AdamW's betas.
        eps: AdamW's epsilon.
        fused: Whether to use the fused AdamW kernel.

    Raises:
        UserError: No tensor has two dimensions.
    """

    def __init__(
        self,
        groups: Sequence[Mapping[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        fused: bool,
    ) -> None:
        matrices, others = (_of_dimension(groups, matrices=two) for two in (True, False))
        if not matrices:
            raise UserError(
                "optimizer=muon needs 2-D tensors, and this adapter has none; use optimizer=adamw"
            )
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw")
        ]
        if others:
            self._parts.append(torch.optim.AdamW(others, lr=lr, betas=betas, eps=eps, fused=fused))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # no closure is given here
        """Step both optimizers."""
        assert closure is None
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of both."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Make both use this optimizer's own state and parameter groups."""
        first = 0
        for part in self._parts:
            count = len(part.param_groups)
            part.state = self.state
            part.param_groups = self.param_groups[first : first + count]
            first += count


def _of_dimension(groups: Sequence[Mapping[str, Any]], *, matrices: bool) -> list[dict[str, Any]]:
    """The groups, restricted to their 2-D tensors, or to all others."""
    chosen = [
        {**group, "params": [p for p in group["params"] if (p.ndim == 2) == matrices]}
        for group in groups
    ]
    return [group for group in chosen if group["params"]]
