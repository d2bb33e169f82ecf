"""Hydra's own sweep, every combination, in which a job that cannot be composed fails alone."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class Combinations(BasicSweeper):
    """Leaves the validation of jobs to the study's launcher, which composes each of them."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Accept every batch."""
