"""Steps whose loss and gradient norm are still on the device, and reading them all at once."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from toplora_train.train.step import StepResult


@dataclass(frozen=True)
class Taken:
    """A step that has been computed, its loss per supervised token and its gradient's norm.

    ``seconds`` is the time that this process spent on it; the last of several steps that are read
    together includes the wait for the device.
    """

    step: int
    loss: float
    grad_norm: float
    tokens: int
    supervised_tokens: int
    seconds: float


class Unread:
    """The steps since the host last waited for the device, with their totals so far."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._results: list[StepResult] = []
        self._steps: list[tuple[int, int, int, float]] = []
        self.tokens = self.supervised_tokens = 0
        self.seconds = 0.0

    def add(
        self, step: int, result: StepResult, *, tokens: int, supervised: int, seconds: float
    ) -> None:
        """Add a step, without waiting for it."""
        self._results.append(result)
        self._steps.append((step, tokens, supervised, seconds))
        self.tokens += tokens
        self.supervised_tokens += supervised
        self.seconds += seconds

    def read(self) -> list[Taken]:
        """Wait for the device: the one synchronisation of all these steps, which are forgotten."""
        if not self._steps:
            return []
        began = time.perf_counter()
        losses = torch.stack([one.loss.double() for one in self._results])
        norms = torch.stack([one.grad_norm.double() for one in self._results])
        values = torch.stack([losses, norms], dim=1).tolist()
        waited = time.perf_counter() - began
        last = self._steps[-1][0]
        taken = [
            Taken(step, loss, norm, tokens, supervised, seconds + waited * (step == last))
            for (loss, norm), (step, tokens, supervised, seconds) in zip(
                values, self._steps, strict=True
            )
        ]
        self._forget()
        return taken
