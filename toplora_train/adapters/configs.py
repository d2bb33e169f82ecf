"""Base classes for the PEFT configs of this package's methods."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar

from peft import PeftConfig, PeftType

from toplora_train.adapters.checks import (
    check_boolean,
    check_layers,
    check_names,
    check_pattern,
    check_positive_integer,
    check_positive_number,
    check_probability,
)

SCHEMA_VERSION = 1
"""Version of the saved configs and tensors; higher versions cannot be read."""


@dataclass
class AdapterConfig(PeftConfig):
    """Settings common to all methods: the adapted modules and dropout.

    Args:
        dropout: Probability of zeroing an entry of the adapter's input in training.
        target_modules: Names (or name suffixes) of linear modules, a regular expression over full
            names, ``"all-linear"``, or None for the query, key and value projections.
        exclude_modules: Names or a regular expression of modules to exclude.
        layers_to_transform: Index or indices of the layers to adapt; None means all.
        modules_to_save: Names of modules that are fully trained and saved with the adapter.
        schema_version: Stored in the saved config for future versions of this package.
    """

    method: ClassVar[str]

    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schema_version(self.schema_version)
        self.peft_type = PeftType[self.method.upper()]
        check_probability("dropout", self.dropout)
        check_names("target_modules", self.target_modules)
        check_names("exclude_modules", self.exclude_modules)
        check_layers("layers_to_transform", self.layers_to_transform)
        check_names("modules_to_save", self.modules_to_save, regex=False)
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError(
                "layers_to_transform needs target_modules as a list of names, not "
                f"{self.target_modules!r}, which names the layers itself"
            )

    @classmethod
    def setting_names(cls) -> list[str]:
        """The method's own settings: its fields except PEFT's internal ones."""
        bookkeeping = {entry.name for entry in fields(PeftConfig)} | {"schema_version"}
        return [entry.name for entry in fields(cls) if entry.name not in bookkeeping]

    def scaling_for(self, module_name: str) -> float:
        """The factor applied to the update in the named module."""
        raise NotImplementedError


def check_schema_version(version: object) -> None:
    """Reject files saved by a newer version of this package, which may use unknown settings.

    Raises:
        ValueError: The version is newer than :data:`SCHEMA_VERSION`.
    """
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(
            f"saved by a newer toplora-train (schema_version {version}, known here: up to "
            f"{SCHEMA_VERSION}); upgrade toplora-train to read it"
        )


@dataclass
class LowRankConfig(AdapterConfig):
    """Settings of a method whose update in each module has rank ``r``.

    Args:
        r: Rank of the update.
        alpha: Numerator of the scaling ``alpha / r``.
        use_rslora: Scale by ``alpha / sqrt(r)`` instead (Kalajdzievski, arXiv 2312.03732).
        rank_pattern: Ranks by module: a name, a name suffix, or a regular expression -> r.
        alpha_pattern: The same for alpha.
    """

    r: int = 8
    alpha: float = 16
    use_rslora: bool = False
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_integer("r", self.r)
        check_positive_number("alpha", self.alpha)
        check_boolean("use_rslora", self.use_rslora)
        self.rank_pattern = {} if self.rank_pattern is None else self.rank_pattern
        self.alpha_pattern = {} if self.alpha_pattern is None else self.alpha_pattern
        check_pattern("rank_pattern", self.rank_pattern, integer=True)
        check_pattern("alpha_pattern", self.alpha_pattern, integer=False)

    def rank_for(self, module_name: str) -> int:
        """The rank in the named module."""
        return int(_value_for(module_name, self.rank_pattern, default=self.r))

    def scaling_for(self, module_name: str) -> float:
        """The scaling ``alpha / r`` or ``alpha / sqrt(r)`` in the named module."""
        alpha = _value_for(module_name, self.alpha_pattern, default=self.alpha)
        rank = self.rank_for(module_name)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank


def _value_for(module_name: str, patterns: Mapping[str, float], *, default: float) -> float:
    """The value of the first pattern that matches the end of a module's dotted name, as in PEFT."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module_name):
            return value
    return default
