"""The schema of what ``report.json`` holds as mappings, for reports that were found somewhere.

:class:`toplora_train.report.record.Report` leaves these parts to the code that measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Measured = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A number that may be NaN, which JSON writes as null."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
"""A score: the share of right answers, or a correlation."""
Whole = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Interval = tuple[Measured, Measured]


@dataclass(frozen=True)
class _Gain:
    value: Finite
    ci95: tuple[Finite, Finite]


@dataclass(frozen=True)
class _MeanGain(_Gain):
    tasks: dict[str, _Gain]


@dataclass(frozen=True)
class _Contamination:
    rows: int
    ids: list[str]


@dataclass(frozen=True)
class _Data:
    contamination: dict[str, _Contamination] | None = None


@dataclass(frozen=True)
class _Start:
    path: str
    sha256: str


@dataclass(frozen=True)
class _Adapter:
    start: _Start | None = None


@dataclass(frozen=True)
class _Metric:
    value: Measured
    ci95: Interval


@dataclass(frozen=True)
class _Task:
    more: dict[str, _Metric] = field(default_factory=dict)
    base_value: Finite | None = None
    base_ci95: Interval | None = None
    last_value: Finite | None = None
    last_ci95: Interval | None = None

    def __post_init__(self) -> None:
        _validate_together(self.base_value, self.base_ci95, "base_value and base_ci95")
        _validate_together(self.last_value, self.last_ci95, "last_value and last_ci95")


@dataclass(frozen=True)
class _Published:
    adapter: str
    source: str
    protocol: str
    scores: dict[str, Finite]
    average: Finite | None


@dataclass(frozen=True)
class _Forgetting:
    text: str
    sha256: str
    before: Finite
    after: Finite
    difference: Finite
    ci95: Interval
    documents: Positive
    tokens: Positive


@dataclass(frozen=True)
class _Environment:
    packages: dict[str, Any]
    device: str | None = None


@dataclass(frozen=True)
class StoredParts:
    """The measured parts of a completed report."""

    data: _Data
    adapter: _Adapter
    tasks: Mapping[str, _Task]
    environment: _Environment
    gain: _MeanGain | None = None
    forgetting: _Forgetting | None = None
    expected: list[_Published] | None = None
    average: Finite | None = None
    average_ci95: Interval | None = None
    average_base_value: Finite | None = None
    average_base_ci95: Interval | None = None
    average_majority_value: Finite | None = None

    def __post_init__(self) -> None:
        _validate_together(self.average, self.average_ci95, "average and average_ci95")
        base, interval = self.average_base_value, self.average_base_ci95
        _validate_together(base, interval, "average_base_value and average_base_ci95")


def _validate_together(value: float | None, interval: Interval | None, names: str) -> None:
    if (value is None) != (interval is None):
        raise ValueError(f"must be given together: {names}")
