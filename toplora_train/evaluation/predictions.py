"""Predictions on disk: ``TASK.jsonl``, a line per example, whole or absent.

While a task is being evaluated its lines go to ``TASK.jsonl.partial``, and those of further
processes to ``TASK.jsonl.partial.rank1`` and so on, from which an interrupted evaluation is taken
up again; the last line written there may be torn. The first line of a partial file says what its
predictions belong to (which weights, which protocol), so that those of other weights are never
mixed in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from toplora_train.config.errors import UserError


@dataclass(frozen=True)
class Prediction:
    """One answered row.

    Attributes:
        id: The row's name, unique within its task.
        prompt: The whole text that the model was given.
        output: The whole text that it generated.
        prediction: The answer extracted from ``output``; None where it holds none.
        label: The right answer.
        correct: Whether the two are the same answer.
        scores: What the model gave each answer it could choose from, where it chose; else None, and
            then the line does not speak of it.
    """

    id: str
    prompt: str
    output: str
    prediction: str | None
    label: str
    correct: bool
    scores: Mapping[str, float] | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """Read a finished file of predictions.

    Raises:
        UserError: the file is missing, or a line is no prediction.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); evaluate the task") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line:
            prediction = _parse(line)
            if prediction is None:
                raise UserError(
                    f"{path}, line {number}: not a prediction; remove the file and evaluate again"
                )
            found.append(prediction)
    return found


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write a finished file of predictions, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".aside")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(_line(_values(prediction)) for prediction in predictions)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def finished_predictions(path: Path, *, belongs_to: str) -> list[Prediction]:
    """Read a finished file if it is known to belong to these weights and this protocol; else none.

    Args:
        path: ``predictions/TASK.jsonl``.
        belongs_to: See :class:`PredictionFile`.
    """
    try:
        known = _whose(path).read_text(encoding="utf-8") == belongs_to
    except OSError:
        known = False
    return read_predictions(path) if known and path.is_file() else []


def unfinished_predictions(path: Path, *, belongs_to: str = "") -> dict[str, Prediction]:
    """Read what an interrupted evaluation left, in whichever of its processes, by row id.

    Args:
        path: The final file, ``predictions/TASK.jsonl``.
        belongs_to: See :class:`PredictionFile`.
    """
    parts = _partial_files(path)
    return {found.id: found for part in parts for found in _read_partial(part, belongs_to)}


class PredictionFile:
    """Writes one process's predictions of a task as they come, and can go on where it was stopped.

    Args:
        path: The final file, ``predictions/TASK.jsonl``.
        belongs_to: What decides the predictions: a digest of weights and protocol, say. A partial
            file that belongs to something else is begun anew.
        rank: The process's number among those that share the task's rows.

    Attributes:
        added: How many predictions were added now.

    Use it as a context manager: ``add`` appends, ``finish`` puts the final file in place. What it
    goes on from is read with :func:`unfinished_predictions` before any process opens its own.
    """

    def __init__(self, path: Path, *, belongs_to: str = "", rank: int = 0) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial" + (f".rank{rank}" if rank else ""))
        self._belongs_to = belongs_to
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = _read_partial(self.partial, belongs_to)
        # Written anew rather than appended to: the torn line, if any, is gone.
        self._file: TextIO = self.partial.open("w", encoding="utf-8")
        self._write({"belongs_to": belongs_to})
        for prediction in kept:
            self._write(_values(prediction))
        self.added = 0

    def __enter__(self) -> PredictionFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, prediction: Prediction) -> None:
        """Append one prediction to the partial file, at once."""
        self._write(_values(prediction))
        self.added += 1

    def finish(self, predictions: Sequence[Prediction]) -> None:
        """Put all ``predictions``, in this order, in place as the final file.

        The first process does it for all; the partial files go, those of the others too.
        """
        self._file.close()
        _whose(self.path).unlink(missing_ok=True)
        write_predictions(self.path, predictions)
        if self._belongs_to:
            _whose(self.path).write_text(self._belongs_to, encoding="utf-8")
        for part in _partial_files(self.path):
            part.unlink()

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(_line(values))
        self._file.flush()


def _whose(path: Path) -> Path:
    """What a finished file belongs to stands beside it: its lines are predictions and no more."""
    return path.with_name(f".{path.name}.belongs_to")


def _values(prediction: Prediction) -> dict[str, Any]:
    values = asdict(prediction)
    if prediction.scores is None:
        del values["scores"]
    return values


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _parse(line: str) -> Prediction | None:
    try:
        values = json.loads(line)
        return Prediction(
            **{field.name: values[field.name] for field in fields(Prediction)[:-1]},
            scores=values.get("scores"),
        )
    except (ValueError, TypeError, KeyError):
        return None


def _partial_files(path: Path) -> list[Path]:
    found = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(part for part in found if part.name.startswith(f"{path.name}.partial"))


def _read_partial(path: Path, belongs_to: str) -> list[Prediction]:
    if not path.is_file():
        return []
    head, *lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        if json.loads(head) != {"belongs_to": belongs_to}:
            return []
    except ValueError:
        return []
    # A line without its end was torn by the interruption, even where it happens to be valid JSON.
    return [found for line in lines[:-1] if (found := _parse(line)) is not None]
