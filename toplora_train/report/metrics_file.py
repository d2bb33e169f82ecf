"""``metrics.jsonl``: a line per logged step, appended in training; ``metrics.csv`` at its end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import AppendedLines, plain_json, write_text_atomically
from toplora_train.config.reading import json_lines, validate_file
from toplora_train.report.comparison_csv import csv_text

KEYS = (
    "step",
    "epoch",
    "loss",
    "lr",
    "grad_norm",
    "tokens",
    "supervised_tokens",
    "seconds",
    "tokens_per_second",
    "peak_memory_bytes",
)
MAX = 2.0**63  # what a plot can show; NaN is not below it


class MetricsFile(AppendedLines):
    """Appends to ``metrics.jsonl``.

    Args:
        path: The file.
        resumed_step: The step a run resumes from: lines of later steps, which the interrupted run
            wrote after its last checkpoint, and an incomplete last line are dropped. None for a
            fresh run: an existing file is replaced.
    """

    def __init__(self, path: Path, *, resumed_step: int | None = None) -> None:
        lines = _complete_rows(path) if resumed_step is not None and path.is_file() else []
        kept = [row for row in lines if row["step"] <= (resumed_step or 0)]
        super().__init__(path, map(plain_json, kept))
        self._path = path
        self._resumed_after = resumed_step

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one step's record, on the disk before the checkpoint of the same step is.

        The first record of a resumed run has ``resumed_after``.

        Args:
            record: All of ``KEYS`` and any other metrics; None values of the latter are left out.

        Raises:
            KeyError: One of ``KEYS`` is missing.
        """
        row = {key: record[key] for key in KEYS}
        row |= {
            key: value
            for key, value in record.items()
            if key not in row and key != "logged" and value is not None
        }
        if self._resumed_after is not None:
            row["resumed_after"], self._resumed_after = self._resumed_after, None
        self.append_line(plain_json(row))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, of which every line has been flushed, and write it as a table too."""
        super().close()
        write_text_atomically(self._path.with_suffix(".csv"), _table(_complete_rows(self._path)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read every complete line of ``metrics.jsonl``.

    Raises:
        UserError: The file cannot be read, or a line is not a step's record.
    """
    validate_file(path)
    return _complete_rows(path)


def _complete_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, row in json_lines(path):
        wrong = KEYS if not isinstance(row, dict) else [key for key in KEYS if not _valid(row, key)]
        if wrong:
            raise UserError(f"{path}, line {number}: {wrong[0]} must be a number; remove the line")
        rows.append(row)
    return rows


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV; a metric that a row lacks is an empty cell."""
    return csv_text(list(dict.fromkeys(key for row in rows for key in row)), rows)


def _valid(row: Mapping[str, Any], key: str) -> bool:
    """Whether a key holds a number; null stands for NaN, but not as the step."""
    value = row.get(key, "")
    if value is None:
        return key != "step"
    kinds = int if key == "step" else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) < MAX
