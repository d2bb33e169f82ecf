"""The schema of what ``report.json`` holds as mappings, for reports that were found somewhere.

:class:`toplora_train.report.record.Report` leaves these parts to the code that measures them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator

Measured = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A number that may be NaN, which JSON writes as null."""
Interval = tuple[Measured, Measured]


@dataclass(frozen=True)
class _Gain:
    value: Measured
    ci95: Interval


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


@dataclass(frozen=True)
class _Published:
    adapter: str
    source: str
    protocol: str
    scores: dict[str, float]
    average: float | None


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
    expected: list[_Published] | None = None
    average: float | None = None
    average_ci95: Interval | None = None
    average_base_value: float | None = None
    average_base_ci95: Interval | None = None
    average_majority_value: float | None = None
