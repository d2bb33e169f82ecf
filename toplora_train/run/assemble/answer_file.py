"""Answers to a file of prompts: ``OUTPUT.partial`` while they are made, ``OUTPUT`` in the end.

An interrupted job resumes from the partial file: a first line that identifies what the answers
depend on, then a line for each answer as it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from toplora_train.config.errors import UserError
from toplora_train.config.json_file import AppendedLines, json_line, write_text_atomically
from toplora_train.config.reading import parse_json, validate_json


@dataclass(frozen=True)
class Answer:
    """An answer: whose it is (``base`` or ``tuned``), the index of its prompt, and the text.

    ``finished`` is false where it was cut off at ``max_new_tokens``.
    """

    who: str
    index: int
    text: str
    finished: bool


class AnswerFile(AppendedLines):
    """Keeps answers as they are made; a context manager.

    Args:
        path: The final file.
        belongs_to: Identifies prompts, weights and settings.

    Attributes:
        kept: The answers of an interrupted job, then also those that were added.

    Raises:
        UserError: The file exists, or the partial file has answers to other prompts.
    """

    def __init__(self, path: Path, *, belongs_to: str) -> None:
        self.path, self.partial = path, path.with_name(f"{path.name}.partial")
        if path.exists():
            raise UserError(f"{path} already exists; choose another file with output=FILE")
        self.kept = self._read(belongs_to)
        super().__init__(self.partial, [{"belongs_to": belongs_to}, *map(asdict, self.kept)])

    def add(self, answer: Answer) -> None:
        """Keep an answer: it survives the end of this process."""
        self.kept.append(answer)
        self.append_line(asdict(answer))

    def finish(self, lines: Sequence[dict[str, object]]) -> None:
        """Write the final file atomically, a line for each of ``lines``; remove the partial one."""
        write_text_atomically(self.path, "".join(map(json_line, lines)))
        self.partial.unlink()

    def _read(self, belongs_to: str) -> list[Answer]:
        if not self.partial.is_file():
            return []
        head, *lines = self.partial.read_text(encoding="utf-8", errors="replace").split("\n")
        try:
            same = parse_json(head) == {"belongs_to": belongs_to}
        except ValueError:
            same = not lines  # the job ended while it wrote the first line
        if not same:
            raise UserError(
                f"{self.partial} has answers to other prompts, of other weights or with other "
                "settings; choose another output=FILE, or remove it"
            )
        place = f"{self.partial}, line"
        # A last line without a newline was cut off.
        return [
            validate_json(Answer, line, f"{place} {number}")
            for number, line in enumerate(lines[:-1], start=2)
        ]
