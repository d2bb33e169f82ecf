"""Predictions on disk: ``TASK.jsonl``, a line per example, whole or absent.

While a task is being evaluated its lines go to ``TASK.jsonl.partial``, from which an interrupted
evaluation is taken up again; the last line written there may be torn. The first line of the partial
file says what its predictions belong to (which weights, which protocol), so that those of other
weights are never mixed in.
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


class PredictionFile:
    """Writes the predictions of one task as they come, and can go on where it was stopped.

    Args:
        path: The final file, ``predictions/TASK.jsonl``.
        belongs_to: What decides the predictions: a digest of weights and protocol, say. A partial
            file that belongs to something else is begun anew.

    Attributes:
        finished: What an earlier, interrupted evaluation left, by row id.

    Use it as a context manager: ``add`` appends, ``finish`` puts the final file in place.
    """

    def __init__(self, path: Path, *, belongs_to: str = "") -> None:
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.finished = {p.id: p for p in _read_partial(self.partial, belongs_to)}
        # Written anew rather than appended to: the torn line, if any, is gone.
        self._file: TextIO = self.partial.open("w", encoding="utf-8")
        self._write({"belongs_to": belongs_to})
        for prediction in self.finished.values():
            self.add(prediction)

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

    def finish(self, predictions: Sequence[Prediction]) -> None:
        """Put ``predictions``, in this order, in place as the final file; the partial one goes."""
        self._file.close()
        write_predictions(self.path, predictions)
        self.partial.unlink()

    def _write(self, values: dict[str, Any]) -> None:
        self._file.write(_line(values))
        self._file.flush()


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
