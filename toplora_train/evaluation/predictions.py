"""Predictions on disk: ``TASK.jsonl``, one line per row, written atomically.

During evaluation each process appends to ``TASK.jsonl.partial`` (``.partial.rank1`` and so on for
the others), from which an interrupted evaluation resumes; the last line may be truncated. The first
line identifies the weights and protocol that the predictions belong to, so that predictions of
other weights are never mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import AppendedLines, json_line, write_text_atomically
from toplora_train.config.reading import json_lines, read_text, validate, validate_json


@dataclass(frozen=True)
class Prediction:
    """One answered row.

    Attributes:
        id: The row's id, unique within its task.
        prompt: The full prompt.
        output: The full generated text.
        prediction: The answer extracted from ``output``; None if there is none.
        label: The gold answer.
        correct: Whether the two are the same answer.
        scores: The score of each option where the model chose among options; None otherwise, and
            then absent from the line.
        cut_off: Whether ``output`` was cut off at ``max_new_tokens``; absent from the line if not.
    """

    id: str
    prompt: str
    output: str
    prediction: str | None
    label: str
    correct: bool
    scores: Mapping[str, float] | None = None
    cut_off: bool = False


def read_predictions(path: Path) -> list[Prediction]:
    """Read a finished predictions file.

    Raises:
        UserError: the file is missing, or a line is not a prediction.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; evaluate the task")
    try:
        return [
            validate_json(Prediction, line, f"{path}, line {number}")
            for number, line in enumerate(read_text(path, limit=None).split("\n"), start=1)
            if line
        ]
    except UserError as error:
        raise UserError(f"{error}; remove the file and evaluate the task again") from None


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a finished predictions file atomically."""
    lines = (json_line(_values(prediction)) for prediction in predictions)
    write_text_atomically(path, "".join(lines))


def finished_predictions(path: Path, *, belongs_to: str) -> list[Prediction]:
    """Read a finished file if it belongs to these weights and this protocol; else return [].

    Args:
        path: ``predictions/TASK.jsonl``.
        belongs_to: See :class:`PredictionFile`.
    """
    try:
        matches = read_text(_owner_file(path)) == belongs_to
    except UserError:
        matches = False
    return read_predictions(path) if matches and path.is_file() else []


def unfinished_predictions(path: Path, *, belongs_to: str = "") -> dict[str, Prediction]:
    """Read the predictions that all processes of an interrupted evaluation left, by row id.

    Args:
        path: The final file, ``predictions/TASK.jsonl``.
        belongs_to: See :class:`PredictionFile`.
    """
    parts = _partial_files(path)
    return {found.id: found for part in parts for found in _read_partial(part, belongs_to)}


class PredictionFile(AppendedLines):
    """Writes one process's predictions of a task as they are made, and can resume.

    Args:
        path: The final file, ``predictions/TASK.jsonl``.
        belongs_to: Identifies what the predictions depend on, such as a digest of weights and
            protocol. A partial file with another value is overwritten.
        rank: The process's rank.

    Attributes:
        added: The number of predictions added by this process.

    Use it as a context manager: ``add`` appends, ``finish`` writes the final file. To resume, call
    :func:`unfinished_predictions` before any process opens its own file.
    """

    def __init__(self, path: Path, *, belongs_to: str = "", rank: int = 0) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial" + (f".rank{rank}" if rank else ""))
        self._belongs_to = belongs_to
        kept = _read_partial(self.partial, belongs_to)
        super().__init__(self.partial, [{"belongs_to": belongs_to}, *map(_values, kept)])
        self.added = 0

    def add(self, prediction: Prediction) -> None:
        """Append one prediction to the partial file and flush it."""
        self.append_line(_values(prediction))
        self.added += 1

    def finish(self, predictions: Sequence[Prediction]) -> None:
        """Write all ``predictions``, in this order, to the final file.

        Called by the main process only; it deletes the partial files of all processes.
        """
        self.close()
        _owner_file(self.path).unlink(missing_ok=True)
        write_predictions(self.path, predictions)
        if self._belongs_to:
            _owner_file(self.path).write_text(self._belongs_to, encoding="utf-8")
        for part in _partial_files(self.path):
            part.unlink()


def _owner_file(path: Path) -> Path:
    """The file next to a finished one that holds its ``belongs_to``."""
    return path.with_name(f".{path.name}.belongs_to")


def _values(prediction: Prediction) -> dict[str, Any]:
    values = asdict(prediction)
    if prediction.scores is None:
        del values["scores"]
    if not prediction.cut_off:
        del values["cut_off"]
    return values


def _parse(values: Any) -> Prediction | None:
    try:
        return validate(Prediction, values, "")
    except UserError:
        return None


def _partial_files(path: Path) -> list[Path]:
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(part for part in found if part.name.startswith(f"{path.name}.partial"))


def _read_partial(path: Path, belongs_to: str) -> list[Prediction]:
    lines = [line for _, line in json_lines(path)] if path.is_file() else []
    if lines[:1] != [{"belongs_to": belongs_to}]:
        return []
    return [found for line in lines[1:] if (found := _parse(line)) is not None]
